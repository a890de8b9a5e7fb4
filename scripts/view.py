"""Rule view: every image in napari, or the place of the page that leads to all of them."""

from pathlib import Path

from harpy_core.workflow.script import running


def main(snakemake):
    """Open a window for each image; without napari or a display, say what to open."""
    with running(snakemake):
        from harpy_core.viewing import napari

        if not napari.is_there():
            index = Path(snakemake.input.index).resolve().as_uri()
            print(f"without napari and a display: open {index} in a browser", flush=True)
            return
        from harpy_core.raster import RasterInfo, open_described

        given = zip(
            snakemake.params.names, snakemake.input.rasters, snakemake.input.tables, strict=True
        )
        for name, raster, manifest in given:
            table = manifest.replace(".manifest.json", ".zarr")
            napari.opened(open_described(RasterInfo.from_json(raster)), table, name)
        napari.run()


if __name__ == "__main__":
    main(snakemake)

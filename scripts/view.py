"""Rule view: every image in napari or with Vitessce, or the place of the page that leads to all."""

import os
from pathlib import Path

from harpy_core.workflow.script import running

FOLDER = "HARPY_CORE_VITESSCE"
"""Variable that names a folder with Vitessce."""


def main(snakemake):
    """Open a window for each image, or serve a page; without either, say what to open."""
    with running(snakemake):
        from harpy_core.viewing import napari

        if not napari.is_there() and FOLDER not in os.environ:
            index = Path(snakemake.input.index).resolve().as_uri()
            print(f"without napari and a display: open {index} in a browser", flush=True)
            return
        from harpy_core.raster import RasterInfo, open_described

        names, tables = snakemake.params.names, snakemake.input.tables
        tables = [Path(manifest.replace(".manifest.json", ".zarr")) for manifest in tables]
        described = map(RasterInfo.from_json, snakemake.input.rasters)
        given = zip(names, map(open_described, described), tables, strict=True)
        if FOLDER in os.environ:
            from harpy_core.viewing.bundles import read_bundle
            from harpy_core.viewing.scenes import Scene
            from harpy_core.viewing.site import serve

            bundle = read_bundle(os.environ[FOLDER])
            scenes = {}
            for name, raster, table in given:
                crops = table.with_name("crops.zarr")
                crops = crops if crops.with_suffix(".manifest.json").is_file() else None
                scenes[name] = Scene(raster, table, name, crops=crops)
            serve(scenes, bundle)
            return
        for name, raster, table in given:
            napari.opened(raster, table, name)
        napari.run()


if __name__ == "__main__":
    main(snakemake)

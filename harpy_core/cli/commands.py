"""The commands: input becomes sections of the config, with which each makes one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from harpy_core.cli.options import as_options, options_of, section_of
from harpy_core.config.crops import CropSettings
from harpy_core.config.models import DATASETS, Aggregate, Case, Cluster, Extract, Source
from harpy_core.errors import InputError
from harpy_core.running.given import given_cores
from harpy_core.statistics.asked import of_section
from harpy_core.version import __version__
from harpy_core.viewing.bundles import PACKED, read_bundle

if TYPE_CHECKING:
    from distributed import Client

    from harpy_core.raster import RasterInfo

F = TypeVar("F", bound=Callable[..., Any])

LOOKED_UP = tuple(name for name in Source.model_fields if name not in ("uri", "labels"))
CROPPED = tuple(name for name in Extract.model_fields if name != "channels")
"""Keys of the section extract; its channels are those of the source."""

_COMPLETION = """\b
Completion of commands, options and their values:
  bash  eval "$(_HARPY_CORE_COMPLETE=bash_source harpy-core)"
  zsh   eval "$(_HARPY_CORE_COMPLETE=zsh_source harpy-core)"
  fish  _HARPY_CORE_COMPLETE=fish_source harpy-core | source"""


def run() -> NoReturn:
    """Run the command line; a mistake is reported in one line, before anything is written."""
    try:
        harpy_core.main(prog_name="harpy-core", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.Abort:
        print("harpy-core: stopped", file=sys.stderr)
        sys.exit(130)
    except (InputError, OSError, click.ClickException) as error:
        told = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"harpy-core: {as_options(' '.join(told.split()))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


@click.group(epilog=_COMPLETION, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def harpy_core() -> None:
    """Measure every cell of a microscopy image, from the image and its segmentation.

    IMAGE is a SpatialData, OME-Zarr or plain Zarr store, zipped or not, at a path or at an s3://,
    gs:// or https:// address, or a TIFF. LABELS is an element of the same store, or the path or
    address of a label TIFF or Zarr array; it may be left out if the store has only one.
    """


def on_an_image(command: F) -> F:
    """Add the arguments and options of every command that reads an image."""
    command = options_of(Source, *LOOKED_UP)(command)
    command = click.argument("labels", required=False, type=click.Path())(command)
    return click.argument("uri", metavar="IMAGE", type=click.Path())(command)


def on_workers(command: F) -> F:
    """Add the options of every command whose work is done by threads or workers."""
    command = options_of(Cluster)(command)
    command = click.option(
        "--cores",
        type=click.IntRange(min=1),
        help="Cores of this machine to use, on workers of their own; without it and without "
        "--cluster and its options: all of them, on threads of this process.",
    )(command)
    return options_of(Case, "engine")(command)


def to_a_store(
    command: F,
    kind: type[Path | str] = Path,
    told: str = "Store to write; it appears when it is complete.",
) -> F:
    """Add the place of the result, and whether it may replace another."""
    command = click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")(command)
    place = click.Path(path_type=kind)
    return click.option("-o", "--output", required=True, type=place, help=told)(command)


def to_a_store_anywhere(command: F) -> F:
    """Add the place of a result that may be in a bucket."""
    command = click.option(
        "--output-options",
        metavar="TEXT",
        help="Options of s3fs for an OUTPUT at an address, such as {endpoint_url: "
        "https://minio.lab:9000}; credentials come from the environment.",
    )(command)
    told = (
        "Store to write, at a path or at s3://bucket/folder; it appears when it is complete. Until "
        "then the current folder holds the work on one at an address."
    )
    return to_a_store(command, str, told)


@harpy_core.command()
@on_an_image
@to_a_store_anywhere
@options_of(Aggregate)
@on_workers
def aggregate(output: str, overwrite: bool, output_options: str | None, **typed: Any) -> None:
    """Write the statistics of every channel in every instance, as an AnnData table."""
    section = section_of(Aggregate, typed)
    options = _options_of(output, output_options)
    folder = _work_on(output, overwrite, options)
    info = _described(typed)
    from harpy_core.aggregate.store import aggregate_to_store
    from harpy_core.instances.finding import find_instances
    from harpy_core.planning.plan import table_settings
    from harpy_core.raster import open_described
    from harpy_core.workflow.asked import table_arguments

    raster = open_described(info)
    engine = typed["engine"] or "auto"
    asked = section.model_dump()
    arguments = table_arguments(asked, info, raster)
    # Workers with less memory than they need end as they start.
    _announce("aggregate", info, typed, folder, **table_settings(asked))
    with _workers(typed) as client:
        instances = find_instances(
            raster.labels, engine=engine, client=client, progress=True, strict=info.strict
        )
        aggregate_to_store(
            raster.image,
            raster.labels,
            output,
            instances,
            engine=engine,
            client=client,
            progress=True,
            storage_options=options,
            **arguments,
        )
    click.echo(f"{output}: {len(instances):,} instances x {len(raster.channels):,} channels")


@harpy_core.command()
@on_an_image
@to_a_store_anywhere
@options_of(Extract, *CROPPED)
@on_workers
def extract(output: str, overwrite: bool, output_options: str | None, **typed: Any) -> None:
    """Write one centred crop of every instance; the work of an earlier, killed run is kept."""
    section = section_of(Extract, {**typed, "channels": None})
    options = _options_of(output, output_options)
    folder = _work_on(output, overwrite, options)
    info = _described(typed)
    from harpy_core.extract.extraction import extract_instances
    from harpy_core.raster import open_described
    from harpy_core.tiles.labels import read_labels

    raster = open_described(info)
    settings = CropSettings.within(section.model_dump()).on(raster.spacing)
    index = read_labels(section.index) if isinstance(section.index, str) else section.index
    _announce("extract", info, typed, folder, crops=settings, sent=options is not None)
    with _workers(typed) as client:
        crops = extract_instances(
            raster.image,
            raster.labels,
            output,
            channels=raster.channels,
            index=index,
            engine=typed["engine"] or "auto",
            client=client,
            overwrite=overwrite,
            progress=True,
            strict=info.strict,
            storage_options=options,
            **settings.model_dump(),
        )
    click.echo(f"{output}: {len(crops):,} crops of {len(raster.channels):,} channels")


@harpy_core.command()
@on_an_image
@options_of(Aggregate, "stats", "rings", "pairs", "thresholds", "whole_channels")
@options_of(Extract, *CROPPED)
@on_workers
def plan(**typed: Any) -> None:
    """Show what both jobs would read, write and hold in memory, without running them."""
    section = section_of(Aggregate, typed)
    stats = of_section(section.model_dump())
    crops = section_of(Extract, {**typed, "channels": None})
    info = _described(typed)
    planned: dict[str, dict[str, Any]] = {
        "instances": {},
        "aggregate": {"stats": stats, "whole_channels": section.whole_channels},
        "extract": {"crops": crops},
    }
    for stage, settings in planned.items():
        click.echo(_sentence(stage, info, typed, Path(), settings))


@harpy_core.command()
@on_an_image
@click.option(
    "--table",
    required=True,
    type=click.Path(path_type=Path),
    help="Table of this image's instances.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Page to write (.html) instead of opening napari: one file for any browser.",
)
@click.option(
    "--crops",
    type=click.Path(),
    help="Crops of this image's instances, in a folder or at an address, to show on the page.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")
@click.option(
    "--vitessce",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Serve a page with Vitessce to the browsers of this machine, until Ctrl-C. FOLDER holds "
    f"what this leaves in it: {PACKED}.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of that page; without it, one that is free.",
)
@options_of(Extract, "diameter")
def view(
    table: Path,
    output: Path | None,
    crops: str | None,
    overwrite: bool,
    vitessce: Path | None,
    port: int | None,
    **typed: Any,
) -> None:
    """Show image, labels and table: in napari, as a page of linked views, or with Vitessce."""
    window = max(section_of(Extract, {"diameter": typed["diameter"]}).window(1))
    if not table.is_dir():
        raise InputError(f"{table}: there is no such table; harpy-core aggregate makes one")
    if output is not None and vitessce is not None:
        raise InputError(f"--vitessce = {vitessce}: its page is served, not written; no --output")
    if vitessce is None and port is not None:
        raise InputError(f"--port = {port}: only a served page has one; give --vitessce")
    if output is not None:
        _refuse_taken(output, overwrite)
    elif crops is not None and vitessce is None:
        raise InputError(f"--crops = {crops}: a page shows them; give its --output, or --vitessce")
    bundle = None if vitessce is None else read_bundle(vitessce)
    info = _described(typed)
    from harpy_core.raster import open_described
    from harpy_core.viewing import napari, pages, scenes, site

    raster, name = open_described(info), Path(info.uri).name
    if bundle is not None:
        scene = scenes.Scene(raster, table, name, window, crops)
        site.serve({name: scene}, bundle, port or 0)
        return
    if output is None:
        napari.opened(raster, table, info.uri)
        napari.run()
        return
    shown = pages.write_page(raster, table, output, name, window, crops)
    click.echo(f"{output}: {shown:,} instances")


@harpy_core.command()
@on_an_image
def check(**typed: Any) -> None:
    """Show what an image and its labels contain: shapes, chunks, codec, channels, a sample."""
    source = section_of(Source, typed)
    from harpy_core.planning.survey import survey

    found = survey(**source.model_dump(exclude={"cache", "missing_chunks"}))
    click.echo("\n".join(found.lines))
    if found.problem:
        raise InputError(found.problem)


@harpy_core.command()
@click.argument("name", type=click.Choice(DATASETS), metavar="NAME")
@to_a_store
def fetch(name: str, output: Path, overwrite: bool) -> None:
    """Make or download a registered dataset as a SpatialData store; ihc is small and real."""
    _refuse_taken(output, overwrite)
    from harpy_core.datasets import fetch as fetched

    fetched(name, output, progress=True)
    click.echo(str(output))


@harpy_core.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("address")
@click.option("--overwrite", is_flag=True, help="Replace another store at ADDRESS.")
@options_of(Source, "storage_options")
def publish(store: Path, address: str, overwrite: bool, **typed: Any) -> None:
    """Copy a finished STORE to a bucket, ADDRESS: s3://bucket/folder.

    It can be opened there once it is whole. What is there already is not sent again, so that an
    interrupted copy resumes. Credentials come from the environment.
    """
    options = section_of(Source, {**typed, "uri": address}).storage_options
    from harpy_core.storage import publishing

    objects, sent = publishing.publish(store, address, options, overwrite)
    click.echo(f"{address}: {objects:,} objects, {sent:,} of them sent now")


def _options_of(output: str, typed: str | None) -> dict[str, Any] | None:
    """Options for the address of a result; None where it has a path."""
    from harpy_core.storage.folders import address_of

    if address_of(output) is None:
        if typed is not None:
            raise InputError(f"--output-options: {output} is a path; leave them out")
        return None
    try:
        asked = section_of(Source, {"uri": output, "storage_options": typed})
    except InputError as error:
        raise InputError(str(error).replace("--storage-options", "--output-options")) from None
    return asked.storage_options or {}


def _work_on(output: str, overwrite: bool, options: Mapping[str, Any] | None) -> Path:
    """Return the folder of the work on a result, whose place is free or may be taken."""
    from harpy_core.storage.destinations import Destination

    place = Destination.of(output, options)
    place.refuse_taken(overwrite, "--overwrite")
    return place.path.absolute().parent


def _refuse_taken(output: Path, overwrite: bool) -> None:
    from harpy_core.storage.folders import local

    local(output)
    if os.path.lexists(output) and not overwrite:
        raise InputError(f"{output}: already there; choose another path, or give --overwrite")


def _described(typed: Mapping[str, Any]) -> RasterInfo:
    """Describe the image and labels that are read."""
    source = section_of(Source, typed)
    if source.uri in DATASETS and not os.path.exists(source.uri):
        raise InputError(
            f"{source.uri}: a registered dataset; make it first: "
            f"harpy-core fetch {source.uri} -o {source.uri}.zarr"
        )
    from harpy_core.raster import describe

    return describe(**source.model_dump())


@contextmanager
def _workers(typed: Mapping[str, Any]) -> Iterator[Client | None]:
    """Yield the Dask client that was asked for, or None: threads of this process."""
    where = section_of(Cluster, typed)
    if typed["cores"] is None and where == Cluster():
        yield None
        return
    from harpy_core.running import cluster

    engine = typed["engine"] or "auto"
    with cluster.connect(where, threads=_cores(typed), engine=engine) as client:
        yield client


def _cores(typed: Mapping[str, Any]) -> int:
    return typed["cores"] or given_cores()


def _announce(
    stage: str, info: RasterInfo, typed: Mapping[str, Any], folder: Path, **settings: Any
) -> None:
    """Print what a job is about to do, or refuse it."""
    click.echo(_sentence(stage, info, typed, folder, settings), err=True)


def _sentence(
    stage: str, info: RasterInfo, typed: Mapping[str, Any], folder: Path, settings: dict[str, Any]
) -> str:
    from harpy_core.planning import fits, forecast
    from harpy_core.planning.plan import stage_plan
    from harpy_core.running.workers import Workers, engine_here

    section_of(Case, {"engine": typed.get("engine"), "source": {"uri": "-"}})
    where, cores = section_of(Cluster, typed), _cores(typed)
    engine = typed.get("engine") or "auto"
    planned = stage_plan(stage, info, engine=engine, **settings)
    workers = Workers.of(where, cores, engine_here(where, engine))
    fits.refuse_unfit(planned, workers, where, cores, folder)
    return forecast.sentence(planned, workers, folder)

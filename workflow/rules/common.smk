# What the rules share: the checked config, and the questions they ask of it.
#
# Nothing heavy is imported here: the workflow is parsed for every dry run and every cluster job.

import os
import sys
from pathlib import Path

# Not workflow.basedir: another workflow may import this one, from an address too. A checkout's
# jobs import its package, whichever environment they run in; others import the installed one.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (ROOT / "harpy_core").is_dir():
    sys.path.insert(0, str(ROOT))
    PYTHON_PATH = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    os.environ.update(
        PYTHONPATH=os.pathsep.join(PYTHON_PATH), HARPY_CORE_SOURCE=str(ROOT)
    )

from harpy_core import provenance

from harpy_core.planning import preflight
from harpy_core.config.crops import CropSettings, Extract
from harpy_core.config.models import DATASETS, MEASURED, PEER, Aggregate
from harpy_core.config.mistakes import load
from harpy_core.config.sizes import parse_bytes
from harpy_core.config.cases import image_cases
from harpy_core.datasets import REGISTRY
from harpy_core.errors import InputError
from harpy_core.kernels.registry import has_gpus
from harpy_core.running.workers import Workers

CONFIG_FILE = os.path.relpath((workflow.configfiles or ["--config"])[-1])
# What Snakemake takes inside a job of its own (measured).
SNAKEMAKE_MB = 310
STAGE_FIGURES = {"aggregate": "heatmap", "extract": "crops"}


def checked_config():
    """The config as models; a mistake in it ends the run with its one line."""
    try:
        checked = load(config, CONFIG_FILE)
        preflight.check(checked, CONFIG_FILE)
    except InputError as error:
        sys.exit(str(error))
    return checked


CONFIG = checked_config()
# What is measured on its own, by its folder: a case, or a field of view of one.
IMAGES = image_cases(CONFIG)
FIELDS = {name: case.fields for name, case in CONFIG.cases.items() if case.fields}


def any_of(names):
    """A wildcard's constraint to some names, which may be none."""
    return "|".join(names) or "(?!)"


def case_of(wildcards):
    """The case, or the field of view of one, that a job belongs to."""
    return IMAGES[wildcards.case]


def plain(section):
    """A section of the config as builtins: Snakemake compares no others between runs."""
    return None if section is None else section.model_dump()


def dataset_code(wildcards):
    """What makes a dataset what it is: the code of a made one, the digest of a published one."""
    dataset = REGISTRY[wildcards.dataset]
    origin = CONFIG.datasets.get(wildcards.dataset)
    if dataset.sha256 is None:
        return provenance.source_digest(dataset.origin)
    return origin and origin.sha256 or dataset.sha256


def source_files(wildcards):
    """The files whose change makes a case's source another one."""
    source = case_of(wildcards).source
    if source.uri in DATASETS:
        manifest = f"data/{source.uri}.manifest.json"
        return [manifest, *preflight.watched_files(source)]
    return preflight.watched_files(source)


def source_stamp(wildcards):
    """What changes when a file of a case's source does, though it keep its name and its size."""
    return preflight.files_digest(case_of(wildcards).source)


def source_params(wildcards):
    """A case's source, a registered name replaced by where its store is."""
    source = plain(case_of(wildcards).source)
    source["dataset"] = source["uri"] if source["uri"] in DATASETS else None
    if source["dataset"]:
        source["uri"] = f"data/{source['uri']}.zarr"
    return source


def raster_of(wildcards):
    """The description of the image and labels that a case works on."""
    tiled = case_of(wildcards).tile is not None
    return f"results/{wildcards.case}/{'tiled' if tiled else 'source'}.json"


def extract_params(wildcards):
    """A case's extract section, or its defaults where it has none."""
    return plain(case_of(wildcards).extract or Extract())


def index_file(wildcards):
    """The file that names the instances to crop, where a case has one."""
    index = extract_params(wildcards)["index"]
    return [index] if isinstance(index, str) else []


def aggregate_params(wildcards):
    """A case's aggregate section, or its defaults where it has none."""
    return plain(case_of(wildcards).aggregate or Aggregate())


def stage_threads(wildcards):
    """Cores of this machine for a stage; one where its workers run elsewhere."""
    return 32 if CONFIG.cluster.kind == "local" else 1


def engine_of(wildcards):
    """The kernels of a case's stages."""
    return case_of(wildcards).engine


def stage_gpus(wildcards):
    """GPUs of a stage's job: one for each worker that it starts on its own machine."""
    workers = Workers.of(CONFIG.cluster, 1, engine_of(wildcards))
    return workers.gpus if workers.here else 0


def measuring_gpus(wildcards):
    """GPUs of a measured run: one for each worker."""
    on_gpus = wildcards.engine != PEER and has_gpus(wildcards.engine)
    return int(wildcards.workers) if on_gpus else 0


def planned_memory(stage):
    """Memory of a stage's job in MB, known from shapes alone (a resource function)."""

    def mem_mb(wildcards, input, threads):
        workers = Workers.of(CONFIG.cluster, threads, engine_of(wildcards))
        return memory_of_job(stage, wildcards, input.raster, workers)

    return mem_mb


def memory_of_job(stage, wildcards, raster, workers):
    """Memory in MB of a job that runs a stage on some workers."""
    from harpy_core.planning.fits import job_bytes
    from harpy_core.planning.plan import stage_plan
    from harpy_core.raster.info import RasterInfo
    from harpy_core.storage.manifest import read_manifest

    crops = CropSettings.within(extract_params(wildcards))
    stats = aggregate_params(wildcards)["stats"]
    found = f"results/{wildcards.case}/instances.manifest.json"
    counted = read_manifest(found)["instances"] if Path(found).is_file() else None
    info = RasterInfo.from_json(raster)
    plan = stage_plan(stage, info, stats=stats, crops=crops, instances=counted)
    return SNAKEMAKE_MB + job_bytes(plan, workers) // 10**6


def sweep_cells(wildcards):
    """The measured runs of a case, one row each."""
    sweep = case_of(wildcards).benchmark
    check_enough_cores(wildcards.case)
    return [
        row
        for stage in sweep.stages
        for row in expand(
            "results/{case}/benchmark/{stage}/{engine}-{workers}-{repeat}.json",
            case=wildcards.case,
            stage=stage,
            engine=sweep.engines,
            workers=getattr(sweep.workers, stage),
            repeat=range(sweep.repeats),
        )
    ]


def check_enough_cores(case):
    """Refuse a sweep that asks for more than --cores, which Snakemake would cap in silence."""
    cores = workflow.resource_settings.cores
    # A report executes nothing, and a dry run without --cores knows of one.
    executes = workflow.executor_plugin is not None and workflow.local_exec
    undecided = cores is None or (workflow.dryrun and cores == 1)
    if workflow.is_main_process and executes and not undecided:
        try:
            preflight.check_cores(CONFIG, case, cores, CONFIG_FILE)
        except InputError as error:
            sys.exit(str(error))


def measuring_threads(wildcards):
    """All cores of this machine, so that nothing runs beside a measurement; a node's share else."""
    if workflow.is_main_process and workflow.local_exec:
        return workflow.resource_settings.cores or 1
    return int(wildcards.workers) * case_of(wildcards).benchmark.threads_per_worker


def published_case(wildcards):
    """The published case whose points a case's figures are drawn over, where there is one."""
    published = {
        "macsima-tonsil": "gigapixel",
        "merscope-liver": "terapixel",
        "tissue-gigapixel": "gigapixel",
        "tissue-terapixel": "terapixel",
    }
    # As it was asked for: a store of the user's may stand in its place.
    return published.get(CONFIG.cases[wildcards.case].source.uri)


def stages_done(case):
    """The stages that a case asks for."""
    return [stage for stage in STAGE_FIGURES if getattr(case, stage) is not None]


def of_fields(file):
    """A file of each field of view of a case (an input function)."""

    def files(wildcards):
        folder = f"results/{wildcards.case}/fields"
        return [f"{folder}/{field}/{file}" for field in FIELDS[wildcards.case]]

    return files


def own_start():
    """The arguments that start this Snakemake once more: its Snakefile and its config."""
    files = [str(file) for file in workflow.overwrite_configfiles or ()]
    given = workflow.config_settings.config_args or ()
    start = ["--snakefile", workflow.main_snakefile]
    start += ["--configfile", *files] if files else []
    return start + (["--config", *given] if given else [])


def all_manifests():
    """What declares each case's stores whole."""
    stores = {"aggregate": "table", "extract": "crops"}
    return [
        f"results/{name}/{stores[stage]}.manifest.json"
        for name, case in CONFIG.cases.items()
        for stage in stages_done(case)
    ]


def all_figures():
    """Every picture that the config's cases come with."""
    drawn = []
    for name, case in IMAGES.items():
        sweeps = case.benchmark.stages if case.benchmark else []
        figures = ["tissue", *map(STAGE_FIGURES.get, stages_done(case)), *sweeps]
        drawn += [f"results/{name}/figures/{figure}.png" for figure in figures]
    joined = [name for name in FIELDS if CONFIG.cases[name].aggregate is not None]
    return drawn + [f"results/{name}/figures/heatmap.png" for name in joined]


def measured_settings(wildcards):
    """What a measured run is given besides its raster, engine and workers."""
    sweep = case_of(wildcards).benchmark
    settings = {
        "threads_per_worker": sweep.threads_per_worker,
        "memory_limit": sweep.memory_limit,
    }
    if wildcards.engine == PEER:
        settings["python"] = sweep.peer_python
    if wildcards.stage == "extract":
        crops = CropSettings.within(extract_params(wildcards))
        return settings | {"crops": crops.model_dump()}
    return settings | {"stats": ["mean"]}


def measured_memory(wildcards, input):
    """Memory of a measured run in MB: what the plan says, or all that the peer may take."""
    sweep = case_of(wildcards).benchmark
    workers = Workers(
        processes=int(wildcards.workers),
        threads=sweep.threads_per_worker,
        memory=parse_bytes(sweep.memory_limit),
        gpus=measuring_gpus(wildcards),
    )
    if wildcards.engine == PEER:
        return workers.processes * workers.memory // 10**6
    return memory_of_job(wildcards.stage, wildcards, input.raster, workers)

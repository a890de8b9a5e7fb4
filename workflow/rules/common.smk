# Shared by the rules: the checked config, and their questions to it.
#
# Nothing heavy is imported here: the workflow is parsed for every dry run and every cluster job.

import os
import sys

from harpy_core import provenance

from harpy_core.planning import preflight
from harpy_core.config.models import DATASETS
from harpy_core.workflow.questions import SWEEP_FIGURES, Questions, any_of, most_workers
from harpy_core.workflow.resources import (
    LONG_MINUTES,
    SMALL_MINUTES,
    Needs,
    growing,
    number_of_try,
)

CONFIG_FILE = os.path.relpath((workflow.configfiles or ["--config"])[-1])


with ending_in_its_lines():
    preflight.check_storage(workflow.storage_settings.default_storage_provider)
    CONFIG = preflight.checked(config, CONFIG_FILE)


pathvars:
    results=CONFIG.results,
    logs=CONFIG.logs,
    benchmarks=f"{CONFIG.logs}/benchmarks",


ASKED = Questions(CONFIG)
NEEDED = Needs(ASKED)
# Once, not in every job.
if workflow.is_main_process:
    for warning in [*preflight.moved_paths(config, CONFIG_FILE), *ASKED.warnings()]:
        print(f"{CONFIG_FILE}: {warning}", file=sys.stderr)


def sweep_of(wildcards):
    """Return the settings of a case's sweep, if there are enough cores for it."""
    check_enough_cores(wildcards.case)
    return ASKED.sweep(wildcards)


def check_enough_cores(case):
    """Refuse a sweep that asks for more than --cores, which Snakemake would cap silently."""
    cores = workflow.resource_settings.cores
    # A report executes nothing, and a dry run without --cores assumes one.
    executes = workflow.executor_plugin is not None and workflow.local_exec
    undecided = cores is None or (workflow.dryrun and cores == 1)
    if workflow.is_main_process and executes and not undecided:
        with ending_in_its_lines():
            preflight.check_cores(CONFIG, case, cores, CONFIG_FILE)


def measuring_threads(wildcards):
    """Return all cores of this machine, so that nothing runs beside a measurement, or a node's share."""
    if workflow.is_main_process and workflow.local_exec:
        return workflow.resource_settings.cores or 1
    sweep = ASKED.case(wildcards).benchmark
    return most_workers(sweep) * sweep.threads_per_worker


def own_start():
    """Return the arguments that start this Snakemake again: its Snakefile and its config."""
    files = [str(file) for file in workflow.overwrite_configfiles or ()]
    given = workflow.config_settings.config_args or ()
    start = ["--snakefile", workflow.main_snakefile]
    start += ["--configfile", *files] if files else []
    return start + (["--config", *given] if given else [])

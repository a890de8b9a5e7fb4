#!/bin/sh
# What Snakemake runs in the environment of workflow.yaml once it is made: the package itself, from
# the checkout where there is one, else its release.
set -eu
exec python -m pip install --no-deps "${HARPY_CORE_SOURCE:-harpy-core}"

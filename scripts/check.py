"""Rule check: the contents of every case's source; only printed."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Print what was found, then what cannot be used."""
    with running(snakemake):
        from harpy_core.config.mistakes import load
        from harpy_core.errors import InputError
        from harpy_core.planning.inspection import inspect

        config = load(snakemake.params.config, snakemake.params.file)
        text, problems = inspect(config)
        print(text, flush=True)
        if problems:
            raise InputError("; ".join(problems))


if __name__ == "__main__":
    main(snakemake)

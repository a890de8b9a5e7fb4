"""Rule plan: what every case will read, write and hold; only printed."""

from harpy_core.workflow.script import running


def main(snakemake):
    """Print one line for each case and stage."""
    with running(snakemake):
        from harpy_core.config.mistakes import load
        from harpy_core.planning import forecast

        config = load(snakemake.params.config, snakemake.params.file)
        print(forecast.table(config), flush=True)


if __name__ == "__main__":
    main(snakemake)

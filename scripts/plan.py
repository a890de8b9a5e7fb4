"""Rule plan: what every case will read, write and hold; only printed."""

from harpy_core.job import running


def main(snakemake):
    """Print one line for each case and stage."""
    with running(snakemake):
        from harpy_core import outlook
        from harpy_core.config import load

        config = load(snakemake.params.config, snakemake.params.file)
        print(outlook.table(config), flush=True)


if __name__ == "__main__":
    main(snakemake)

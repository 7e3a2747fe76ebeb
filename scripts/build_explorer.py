"""Put what every run showed on one page that opens from disk."""

from laglens.job import job
from laglens.report.explorer import explorer_page
from laglens.report.paths import by_run
from laglens.report.run import explorer_run
from laglens.store import opened_tree, read_table, read_tree, write_bytes

with job() as snakemake:
    spec = snakemake.params.spec
    lags, heads, verdicts, effects, cuts, vectors = (
        by_run(snakemake.input[name]) for name in ("lags", "heads", "verdicts", "effects", "cuts", "vectors")
    )
    runs = []
    for run, path in by_run(snakemake.input.time).items():
        with opened_tree(path) as time:
            options = {
                "model": run[0],
                "signal": run[1],
                "window": spec["window"],
                "verdicts": read_table(verdicts[run], empty=True) if run in verdicts else None,
                "heads": read_table(heads[run]),
                "knock_out": read_tree(effects[run]) if run in effects else None,
                "cuts": read_table(cuts[run], empty=True) if run in cuts else None,
                "vectors": read_tree(vectors[run]) if run in vectors else None,
            }
            runs.append(explorer_run(time, read_tree(lags[run]), **options))
    write_bytes(explorer_page(runs, megabytes=spec["megabytes"]).encode(), snakemake.output.page)

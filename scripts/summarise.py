"""Sum up the verdicts of all runs: what was asked, the answer, its number."""

from laglens.job import job
from laglens.report.paths import by_run
from laglens.report.summary import Asked, summary_table
from laglens.report.summary_page import summary_page
from laglens.store import opened_tree, read_table, write_bytes, write_table

with job() as snakemake:
    verdicts, cuts = by_run(snakemake.input.verdicts), by_run(snakemake.input.cuts)
    asked = []
    for (model, signal), path in by_run(snakemake.input.lags).items():
        run = model, signal
        with opened_tree(path) as lags:
            attrs = dict(lags.attrs["signal"])
        tables = (read_table(of[run], empty=True) if run in of else None for of in (verdicts, cuts))
        asked.append(Asked(model, signal, attrs, *tables))
    table = summary_table(asked)
    write_table(table, snakemake.output.table)
    write_bytes(summary_page(table).encode(), snakemake.output.page)

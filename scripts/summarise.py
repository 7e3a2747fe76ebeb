"""Sum up the verdicts of all runs: what was asked, the answer, its number."""

from laglens.job import job
from laglens.report.paths import by_run
from laglens.report.summary import Asked, summary_table
from laglens.report.summary_page import summary_page
from laglens.store import opened_tree, read_table, write_bytes, write_table

with job() as snakemake:
    found = [by_run(paths) for paths in (snakemake.input.verdicts, snakemake.input.cuts, snakemake.input.series)]
    asked = []
    for run, path in by_run(snakemake.input.lags).items():
        with opened_tree(path) as lags:
            attrs = dict(lags.attrs["signal"])
        tables = (read_table(of[run], empty=True) if run in of else None for of in found)
        asked.append(Asked(*run, attrs, *tables))
    table = summary_table(asked)
    write_table(table, snakemake.output.table)
    write_bytes(summary_page(table).encode(), snakemake.output.page)

"""Compare the lags of one model on two signals, against what differs between their noise."""

from laglens.job import job
from laglens.lags.comparison import compare_lags
from laglens.lags.tables import changes_table
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    spec = snakemake.params.spec
    comparison = compare_lags(
        *(read_tree(path) for path in snakemake.input),
        names=tuple(spec["signals"]),
        max_lag=spec["max_lag"],
        confidence=spec["confidence"],
    )
    write_table(changes_table(comparison), snakemake.output.table)
    write_tree(comparison, snakemake.output.comparison)

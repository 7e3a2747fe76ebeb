"""Rank everything that explains forecasts, over the runs of the study."""

from laglens.attribution.methods_table import rank_explanations
from laglens.job import job
from laglens.store import read_table, write_table

with job() as snakemake:
    tables = [read_table(path) for path in snakemake.input.tables]
    write_table(rank_explanations(tables, **snakemake.params.spec), snakemake.output.ranking)

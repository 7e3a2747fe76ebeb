"""Measure the lags of every head against the same model on noise."""

from laglens.job import job
from laglens.lags.measure import measure_lags
from laglens.lags.tables import peaks_table
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    lags = measure_lags(read_tree(snakemake.input.time), read_tree(snakemake.input.control), **snakemake.params.spec)
    write_table(peaks_table(lags), snakemake.output.table)
    write_tree(lags, snakemake.output.lags)

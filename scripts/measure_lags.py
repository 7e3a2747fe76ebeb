"""Measure the lags of every head against the same model on noise, and what the input itself repeats."""

from laglens.job import job
from laglens.lags.inputs import curves_of_windows
from laglens.lags.measure import measure_lags, said_of_controls
from laglens.lags.tables import peaks_table
from laglens.progress import logger
from laglens.store import read_tree, write_dataset, write_table, write_tree

with job() as snakemake:
    time, control = read_tree(snakemake.input.time), read_tree(snakemake.input.control)
    lags = measure_lags(time, control, **snakemake.params.spec)
    logger.info("%s", said_of_controls(control))
    write_table(peaks_table(lags), snakemake.output.table)
    write_dataset(curves_of_windows(time), snakemake.output.curves)
    write_tree(lags, snakemake.output.lags)

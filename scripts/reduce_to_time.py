"""Reduce attention from tokens to time."""

from laglens.job import job
from laglens.store import read_tree, write_tree
from laglens.time.reduce import to_time

with job() as snakemake:
    attention = read_tree(snakemake.input.attention)
    time = to_time(attention, normalisation=snakemake.params.spec["normalisation"])
    write_tree(time, snakemake.output.time)

"""Reduce attention from tokens to time."""

from laglens.job import job
from laglens.store import opened_tree, tree_writer
from laglens.time.reduce import time_into

with (
    job() as snakemake,
    opened_tree(snakemake.input.attention) as attention,
    tree_writer(snakemake.output.time, list(attention.children)) as writer,
):
    time_into(writer, attention, normalisation=snakemake.params.spec["normalisation"])

"""Measure how concentrated, distant and local every head is."""

from laglens.heads.measure import measure_heads
from laglens.heads.table import heads_table
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    heads = measure_heads(read_tree(snakemake.input.time), **snakemake.params.spec)
    write_table(heads_table(heads), snakemake.output.table)
    write_tree(heads, snakemake.output.heads)

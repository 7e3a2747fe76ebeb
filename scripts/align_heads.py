"""Say which history each forecast step reads."""

from laglens.heads.alignment import align_heads, alignment_table
from laglens.heads.nothing import measure_or_empty
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    time = read_tree(snakemake.input.time)
    alignment = measure_or_empty(time, align_heads, time)
    write_table(alignment_table(alignment), snakemake.output.table)
    write_tree(alignment, snakemake.output.alignment)

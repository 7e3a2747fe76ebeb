"""Say which history each forecast step reads."""

from laglens.heads.alignment import align_heads, alignment_table
from laglens.heads.nothing import NothingToMeasureError, empty_result
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    time = read_tree(snakemake.input.time)
    try:
        alignment = align_heads(time)
    except NothingToMeasureError as reason:
        alignment = empty_result(time, reason)
    write_table(alignment_table(alignment), snakemake.output.table)
    write_tree(alignment, snakemake.output.alignment)

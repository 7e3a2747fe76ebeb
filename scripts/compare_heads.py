"""Compare the heads of a model with each other, and with themselves on other windows; and layer by layer."""

from laglens.heads.layers import layers_table, similarity_table
from laglens.heads.similarity import compare_heads
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    similarity = compare_heads(read_tree(snakemake.input.time))
    write_table(layers_table(read_tree(snakemake.input.heads), similarity), snakemake.output.layers)
    write_table(similarity_table(similarity), snakemake.output.table)
    write_tree(similarity, snakemake.output.similarity)

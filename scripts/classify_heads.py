"""Say what kind of head each one is, by stated rules on its measures and by its verdicts."""

from laglens.heads.classes import classify_heads
from laglens.job import job
from laglens.store import read_table, read_tree, write_table

with job() as snakemake:
    verdicts = read_table(snakemake.input.verdicts, empty=True) if snakemake.input.verdicts else None
    write_table(classify_heads(read_tree(snakemake.input.heads), verdicts), snakemake.output.table)

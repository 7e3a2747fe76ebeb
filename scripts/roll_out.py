"""Follow the attention through all layers, and read the lags of the result."""

from laglens.flow.lags import flow_table, rollout_lags
from laglens.flow.rollout import roll_out
from laglens.job import job
from laglens.store import read_tree, write_dataset, write_table

with job() as snakemake:
    flow = roll_out(read_tree(snakemake.input.time), **snakemake.params.spec)
    lags = rollout_lags(flow)
    write_table(flow_table(lags), snakemake.output.table)
    write_dataset(flow.merge(lags), snakemake.output.flow)

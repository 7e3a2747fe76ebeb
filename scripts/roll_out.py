"""Follow the attention through all layers, and read the lags of the result."""

from laglens.flow.lags import flow_lags, flow_table, rollout_lags
from laglens.flow.maximum import MOST, attention_flow
from laglens.flow.rollout import roll_out
from laglens.job import job
from laglens.store import read_tree, write_dataset, write_table

with job() as snakemake:
    spec = dict(snakemake.params.spec)
    of, queries = spec.pop("maximum"), spec.pop("queries")
    time = read_tree(snakemake.input.time)
    flow = roll_out(time, **spec)
    lags = rollout_lags(flow)
    if of != "none" and flow.sizes["query"] > MOST:
        flow.attrs["left_out"]["max_flow"] = f"it is limited to {MOST} time columns"
    elif of != "none":
        maximum = attention_flow(time, of=of, queries=queries, **spec)
        flow = flow.assign(maximum.drop_vars("visible").variables).assign_attrs(at_bound=maximum.attrs["at_bound"])
        lags = lags.assign(flow_lags(maximum).data_vars)
    write_table(flow_table(lags), snakemake.output.table)
    write_dataset(flow.merge(lags, combine_attrs="override"), snakemake.output.flow)

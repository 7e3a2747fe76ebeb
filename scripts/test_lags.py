"""Judge every head at every period of a signal."""

from laglens.job import job
from laglens.lags.comb_tests import comb_test
from laglens.lags.periods import periods_to_test
from laglens.lags.verdicts import untrained_contrasts, verdict_table
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    spec = snakemake.params.spec
    time, untrained = read_tree(snakemake.input.time), read_tree(snakemake.input.untrained)
    step = min(node.attrs["samples_per_token"] for node in time.children.values())
    shown = time.to_dataset()["series"].isel(time=slice(time.attrs["history"]))
    periods, source = periods_to_test(time.attrs["signal"], shown, step, time.attrs["history"])
    comb = comb_test(time, read_tree(snakemake.input.control), periods)
    tested = next(iter(comb.children.values())).to_dataset()["period"].values.tolist()
    table = verdict_table(
        comb, read_tree(snakemake.input.swap), untrained_contrasts(untrained, tested), confidence=spec["confidence"]
    )
    write_table(table.assign(period_of=source), snakemake.output.table)
    write_tree(comb, snakemake.output.comb)

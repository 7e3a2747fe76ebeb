"""Judge every head at every period of a signal."""

from laglens.job import job
from laglens.lags.comb_tests import comb_test
from laglens.lags.periods import periods_to_test
from laglens.lags.verdicts import said_of_verdicts, untrained_contrasts, verdict_table
from laglens.progress import logger
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    spec, paths = snakemake.params.spec, snakemake.input
    time, untrained = read_tree(paths.time), read_tree(paths.untrained)
    step = min(node.attrs["samples_per_token"] for node in time.children.values())
    shown = time.to_dataset()["series"].isel(time=slice(time.attrs["history"]))
    periods, source = periods_to_test(time.attrs["signal"], shown, step, time.attrs["history"])
    comb = comb_test(time, read_tree(paths.control), periods, confidence=spec["confidence"], seed=spec["seed"])
    tested = next(iter(comb.children.values())).to_dataset()["period"].values.tolist()
    best = untrained_contrasts(untrained, tested)
    swap, tracking = read_tree(paths.swap), read_tree(paths.tracking)
    stretched = read_tree(paths.stretched) if paths.stretched else None
    table = verdict_table(comb, swap, best, tracking, stretched, confidence=spec["confidence"])
    logger.info("%s", said_of_verdicts(table))
    write_table(table.assign(period_of=source), snakemake.output.table)
    write_tree(comb, snakemake.output.comb)

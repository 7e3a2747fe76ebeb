"""Test which heads of a model follow the period of their input, and how closely."""

from laglens.job import job
from laglens.lags.comb_tests import said_of_swap, swap_test
from laglens.lags.tracking import following_table, track_periods
from laglens.progress import logger
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    spec = snakemake.params.spec
    swap, white = read_tree(snakemake.input.swap), read_tree(snakemake.input.white)
    tested = swap_test(swap, n_permutations=spec["permutations"], seed=spec["seed"])
    logger.info("%s", said_of_swap(tested))
    tracked = track_periods(swap, white, confidence=spec["confidence"], seed=spec["seed"])
    write_table(following_table(tested, tracked), snakemake.output.table)
    write_tree(tracked, snakemake.output.tracking)
    write_tree(tested, snakemake.output.swap)

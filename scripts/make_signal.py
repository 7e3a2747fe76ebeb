"""Make one signal: generate it, or read it from a data set or from a person's own table."""

from laglens.job import job
from laglens.signals.make import make_signal
from laglens.store import read_table, write_dataset

with job() as snakemake:
    spec = snakemake.params.spec
    table = read_table(snakemake.input.table) if snakemake.input.table else None
    signal = make_signal(spec["signal"], spec["seed"], table, name=snakemake.wildcards.signal)
    write_dataset(signal, snakemake.output.signal)

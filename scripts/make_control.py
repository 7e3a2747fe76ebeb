"""Make AR(1) noise that shares mean, spread and short memory with a signal, and nothing else."""

from laglens.job import job
from laglens.signals.controls import make_control
from laglens.store import read_dataset, write_dataset

with job() as snakemake:
    spec = snakemake.params.spec
    signal = read_dataset(snakemake.input.signal)
    write_dataset(make_control(signal, spec["replicates"], spec["seed"]), snakemake.output.control)

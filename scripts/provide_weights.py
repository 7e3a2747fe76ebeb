"""Copy the weights that come with laglens."""

from pathlib import Path

from laglens.job import job
from laglens.store import write_bytes

with job() as snakemake:
    for source, target in zip(snakemake.input, snakemake.output, strict=True):
        write_bytes(Path(source).read_bytes(), target)

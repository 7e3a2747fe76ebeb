"""Ask of one model what published experiments claim."""

from laglens.calibration.claims import claims_table
from laglens.job import job
from laglens.store import read_table, read_tree, write_table

with job() as snakemake:
    spec, files = snakemake.params.spec, snakemake.input
    table = claims_table(
        dict(zip(spec["signals"], map(read_tree, files.lags), strict=True)),
        dict(zip(spec["signals"], map(read_table, files.verdicts), strict=True)),
        dict(zip(spec["signals"], map(read_table, files.knock_outs), strict=True)),
        read_table(files.pairs),
        model=snakemake.wildcards.model,
        period=spec["period"],
    )
    write_table(table, snakemake.output.table)

"""Rates and effects of all models, with intervals."""

from laglens.calibration.summary import summarise_calibration
from laglens.job import job
from laglens.store import read_table, write_table

PARTS = ("noise", "waves", "knock_out")

with job() as snakemake:
    spec = snakemake.params.spec
    columns = zip(spec["models"], *(getattr(snakemake.input, part) for part in PARTS), strict=True)
    tables = {
        model: {part: read_table(path) for part, path in zip(PARTS, paths, strict=True)} for model, *paths in columns
    }
    write_table(summarise_calibration(tables, confidence=spec["confidence"]), snakemake.output.summary)

"""Draw the answers of all models to the published claims."""

import pandas as pd

from laglens.figures.claims import draw_claims
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, write_bytes, write_table

with job() as snakemake:
    table = pd.concat([read_table(path) for path in snakemake.input.tables])
    write_table(table, snakemake.output.table)
    figure = draw_claims(table, signals=snakemake.params.spec["signals"])
    for path, content in render_files(figure, snakemake.output.figure, snakemake.params.spec["dpi"]).items():
        write_bytes(content, path)

"""Draw how the heads of one model change from layer to layer, on all of its signals."""

from pathlib import Path

from laglens.figures.layers import draw_layers
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, write_bytes

with job() as snakemake:
    tables = {Path(path).stem: read_table(path) for path in snakemake.input.heads}
    figure = draw_layers(tables, title=snakemake.wildcards.model, subtitle="its heads, layer by layer, on every signal")
    for path, content in render_files(figure, snakemake.output.figure, snakemake.params.spec["dpi"]).items():
        write_bytes(content, path)

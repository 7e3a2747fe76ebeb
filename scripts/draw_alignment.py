"""Draw which moment of the history each step of the forecast reads."""

from pathlib import Path

from laglens.figures.alignment import draw_alignment
from laglens.figures.style import render
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    settings, names = snakemake.params.spec["figures"], snakemake.wildcards
    figure = draw_alignment(read_tree(snakemake.input.time), settings, title=names.signal, subtitle=names.model)
    for path in snakemake.output.figure:
        write_bytes(render(figure, Path(path).suffix[1:], settings["dpi"]), path)

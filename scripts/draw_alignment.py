"""Draw which moment of the history each step of the forecast reads."""

from laglens.figures.alignment import draw_alignment
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    settings, names = snakemake.params.spec["figures"], snakemake.wildcards
    figure = draw_alignment(read_tree(snakemake.input.time), settings, title=names.signal, subtitle=names.model)
    for path, content in render_files(figure, snakemake.output.figure, settings["dpi"]).items():
        write_bytes(content, path)

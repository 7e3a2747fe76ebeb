"""Draw the rates of a calibration, and its knock-outs."""

from laglens.figures.calibration import draw_knock_outs, draw_rates
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, write_bytes

with job() as snakemake:
    summary, dpi = read_table(snakemake.input.summary), snakemake.params.spec["dpi"]
    for draw, paths in {draw_rates: snakemake.output.rates, draw_knock_outs: snakemake.output.knock_outs}.items():
        figure = draw(summary)
        for path, content in render_files(figure, paths, dpi).items():
            write_bytes(content, path)

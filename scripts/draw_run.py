"""Draw one model on one signal: its strongest heads in detail, all heads at a glance, all heads by lag."""

from pathlib import Path

from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.mosaic import draw_mosaic
from laglens.figures.style import render
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    settings = snakemake.params.spec["figures"] | {"heads": snakemake.params.spec["heads"]}
    time, lags = read_tree(snakemake.input.time), read_tree(snakemake.input.lags)
    names = {"title": snakemake.wildcards.signal, "subtitle": snakemake.wildcards.model}
    figures = {
        "head_sheet": draw_head_sheet(time, lags, settings, **names),
        "mosaic": draw_mosaic(time, lags, settings, **names),
        "lag_strip": draw_lag_strip(lags, settings, **names),
    }
    for name, figure in figures.items():
        for path in snakemake.output[name]:
            write_bytes(render(figure, Path(path).suffix[1:], settings["dpi"]), path)

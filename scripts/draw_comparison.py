"""Draw what changes in the lags from one signal to another."""

from pathlib import Path

from laglens.figures.difference import draw_difference

from laglens.figures.style import render
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    settings = snakemake.params.spec["figures"] | {"heads": snakemake.params.spec["heads"]}
    figure = draw_difference(
        read_tree(snakemake.input.comparison),
        settings,
        title=snakemake.wildcards.comparison,
        subtitle=snakemake.params.spec["model"],
    )
    for path in snakemake.output.figure:
        write_bytes(render(figure, Path(path).suffix[1:], settings["dpi"]), path)

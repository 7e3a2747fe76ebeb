"""Draw which heads of a model follow the period of their input, and how closely."""

from pathlib import Path

from laglens.figures.style import render
from laglens.figures.tracking import draw_tracking
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    spec = snakemake.params.spec
    figure = draw_tracking(
        read_tree(snakemake.input.tracking),
        read_tree(snakemake.input.swap),
        confidence=spec["confidence"],
        title=snakemake.wildcards.fit,
        subtitle="does the attention follow the period of the input?",
    )
    for path in snakemake.output.figure:
        write_bytes(render(figure, Path(path).suffix[1:], spec["dpi"]), path)

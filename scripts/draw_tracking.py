"""Draw which heads of a model follow the period of their input, and how closely."""

from laglens.figures.style import render_files
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
    for path, content in render_files(figure, snakemake.output.figure, spec["dpi"]).items():
        write_bytes(content, path)

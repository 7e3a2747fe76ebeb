"""Draw how much attention events of the signal get, beside the same tokens without one."""

from laglens.figures.events import draw_events
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, read_tree, write_bytes

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    figure = draw_events(
        read_table(snakemake.input.table, empty=True),
        read_tree(snakemake.input.events),
        {"part": spec["part"]},
        confidence=spec["confidence"],
        title=names.signal,
        subtitle=names.model,
    )
    for path, content in render_files(figure, snakemake.output.figure, spec["dpi"]).items():
        write_bytes(content, path)

"""Draw what one model's attention on one signal amounts to: verdicts, knock-outs, attribution, forecasts."""

from laglens.figures.evidence import draw_evidence
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, read_tree, write_bytes

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    figures = draw_evidence(
        read_table(snakemake.input.verdicts),
        read_tree(snakemake.input.knock_out),
        read_table(snakemake.input.knock_out_table, empty=True),
        read_tree(snakemake.input.attribution),
        read_tree(snakemake.input.time),
        compared=read_tree(snakemake.input.compared),
        window=spec["window"],
        confidence=spec["confidence"],
        title=names.signal,
        subtitle=names.model,
    )
    for name, figure in figures.items():
        for path, content in render_files(figure, snakemake.output[name], spec["dpi"]).items():
            write_bytes(content, path)

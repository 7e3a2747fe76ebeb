"""Draw one model on one signal: all heads by lag, all maps, the strongest heads, the flow, which heads are alike."""

from laglens.figures.run import draw_run
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_dataset, read_tree, write_bytes

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    figures = draw_run(
        read_tree(snakemake.input.time),
        read_tree(snakemake.input.lags),
        spec["figures"] | {"heads": spec["heads"]},
        flow=read_dataset(snakemake.input.flow),
        curves=read_dataset(snakemake.input.curves),
        similarity=read_tree(snakemake.input.similarity),
        title=names.signal,
        subtitle=names.model,
    )
    for name, figure in figures.items():
        for path, content in render_files(figure, snakemake.output[name], spec["figures"]["dpi"]).items():
            write_bytes(content, path)

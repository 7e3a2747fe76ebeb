"""Draw what changes in a model's attention and lags from one signal to another."""

from laglens.figures.comparison import draw_comparison
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    spec = snakemake.params.spec
    figure = draw_comparison(
        read_tree(snakemake.input.comparison),
        read_tree(snakemake.input.time_a),
        read_tree(snakemake.input.time_b),
        spec["figures"] | {"heads": spec["heads"]},
        title=snakemake.wildcards.comparison,
        subtitle=spec["model"],
    )
    for path, content in render_files(figure, snakemake.output.figure, spec["figures"]["dpi"]).items():
        write_bytes(content, path)

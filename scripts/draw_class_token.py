"""Draw where the class token of an image model looks, on the picture and in time."""

from laglens.figures.class_token import draw_class_token
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_tree, write_bytes

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    settings = {"window": spec["window"], "heads": spec["heads"]}
    figure = draw_class_token(read_tree(snakemake.input.seen), settings, title=names.signal, subtitle=names.model)
    for path, content in render_files(figure, snakemake.output.figure, spec["dpi"]).items():
        write_bytes(content, path)

"""Draw the heads of all trainings by layer and kind of series, beside random weights."""

from pathlib import Path

import pandas as pd

from laglens.figures.layers import draw_layers
from laglens.figures.style import render_files
from laglens.job import job
from laglens.store import read_table, write_bytes

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    groups: list[dict[str, list[pd.DataFrame]]] = [{}, {}]
    for table in map(Path, snakemake.input.heads):
        random = table.parent.name in spec["untrained"]
        groups[random].setdefault(table.stem, []).append(read_table(table))
    trained, untrained = ({signal: pd.concat(tables) for signal, tables in group.items()} for group in groups)
    subtitle = "heads of all trainings, layer by layer, by kind of series"
    figure = draw_layers(trained, untrained=untrained, title=names.distribution, subtitle=subtitle)
    for path, content in render_files(figure, snakemake.output.figure, spec["dpi"]).items():
        write_bytes(content, path)

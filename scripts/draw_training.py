"""Draw how a model was trained and how well it forecasts."""

from laglens.figures.style import render_files
from laglens.figures.training import draw_training
from laglens.job import job
from laglens.store import read_card, read_table, write_bytes

with job() as snakemake:
    curve, card = read_table(snakemake.input.curve), read_card(snakemake.input.card)
    figure = draw_training(curve, card, title=card["name"], subtitle=f"trained on {card['trained_on']}")
    for path, content in render_files(figure, snakemake.output.figure, snakemake.params.spec["dpi"]).items():
        write_bytes(content, path)

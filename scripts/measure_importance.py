"""Measure how much each head matters for the forecast: by the gradient, by removing it, by what it writes."""

from laglens.heads.importance import importance_table, measure_importance
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_tree, read_weights, write_table, write_tree

with job() as snakemake:
    device = pick_device(snakemake.params.spec["device"])
    model = restore_model(read_card(snakemake.input.card), read_weights(snakemake.input.weights))
    windows = read_tree(snakemake.input.time).to_dataset()  # the very windows whose attention was read
    importance = measure_importance(model, windows, device=device)
    write_table(importance_table(importance), snakemake.output.table)
    write_tree(importance, snakemake.output.importance)

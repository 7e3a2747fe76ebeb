"""Attribute the forecasts of a model to the samples of its history, and ask whether its heads agree."""

from laglens.attribution.agreement import agree_with_attention
from laglens.attribution.forecast import attribute_forecast
from laglens.attribution.table import attribution_table
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_tree, read_weights, write_table, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    time = read_tree(snakemake.input.time)
    attribution = attribute_forecast(
        model,
        time.to_dataset(),  # the very windows whose attention was read
        methods=spec["methods"],
        step=spec["step"],
        window=spec["window"],
        device=pick_device(spec["device"]),
    )
    agreement = agree_with_attention(attribution, time)
    write_table(attribution_table(agreement), snakemake.output.table)
    write_tree(agreement, snakemake.output.attribution)

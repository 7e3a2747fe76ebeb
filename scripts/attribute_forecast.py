"""Attribute the forecasts of a model to the samples of its history, and ask whether its heads agree."""

from laglens.attribution.agreement import agree_with_attention
from laglens.attribution.comparison import compare_explanations
from laglens.attribution.forecast import attribute_forecast
from laglens.attribution.methods_table import agreement_of, methods_table, replacement_table
from laglens.attribution.table import attribution_table
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_dataset, read_tree, read_weights, write_table, write_tree

with job() as snakemake:
    spec, card = dict(snakemake.params.spec), read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    time, device = read_tree(snakemake.input.time), pick_device(spec.pop("device"))
    options = {name: spec.pop(name) for name in ("methods", "step", "window", "points")}
    confidence, seed = spec.pop("confidence"), spec["seed"]
    spec.pop("versions")
    # The very windows whose attention was read.
    attribution = attribute_forecast(model, time.to_dataset(), seed=seed, device=device, **options)
    agreement = agree_with_attention(attribution, time)
    compared = compare_explanations(model, attribution, time, read_dataset(snakemake.input.flow), device=device, **spec)
    write_table(attribution_table(agreement, confidence=confidence), snakemake.output.table)
    write_table(methods_table(compared, confidence=confidence), snakemake.output.methods)
    write_table(agreement_of(compared["explanations"].to_dataset(), confidence=confidence), snakemake.output.pairs)
    write_table(replacement_table(compared, confidence=confidence), snakemake.output.replaced)
    write_tree(compared, snakemake.output.compared)
    write_tree(agreement, snakemake.output.attribution)

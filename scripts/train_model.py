"""Train a model on the synthetic mixture and judge it on held-out series."""

from laglens.job import job
from laglens.models.card import MIXTURE, mixture_errors, model_card
from laglens.models.pretraining import train_on_mixture
from laglens.models.registry import build_trainable, pick_device
from laglens.store import write_table, write_weights

with job() as snakemake:
    spec = snakemake.params.spec
    model = build_trainable(spec["architecture"], spec["options"], seed=spec["train"]["seed"])
    model.to(pick_device(spec["device"]))
    curve = train_on_mixture(model, **spec["train"])
    card = model_card(
        model,
        name=snakemake.wildcards.model,
        architecture=spec["architecture"],
        options=spec["options"],
        trained_on=MIXTURE,
        training=spec["train"],
        held_out_errors=mixture_errors(model),
        versions=spec["versions"],
    )
    write_table(curve.to_dataframe().reset_index(), snakemake.output.curve)
    write_weights(model.state_dict(), card, snakemake.output.weights)

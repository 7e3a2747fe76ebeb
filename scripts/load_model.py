"""Load a model of others, and keep its weights and what builds it again."""

from laglens.job import job
from laglens.models.agreement import check_horizon
from laglens.models.card import model_card
from laglens.models.registry import load_model
from laglens.store import write_weights

with job() as snakemake:
    spec = snakemake.params.spec
    model = load_model(spec["architecture"], spec["source"], spec["options"], seed=spec["seed"])
    check_horizon(model, spec["options"]["horizon"], snakemake.wildcards.model)
    card = model_card(
        model,
        name=snakemake.wildcards.model,
        architecture=spec["architecture"],
        options=model.options,
        trained_on=spec["source"] or "nothing: random weights",
        training={"seed": spec["seed"]},
        held_out_errors={},
        versions=spec["versions"],
    )
    write_weights(model.state_dict(), card, snakemake.output.weights)

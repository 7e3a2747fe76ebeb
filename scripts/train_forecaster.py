"""Train a forecaster on one signal, with early stopping."""

from laglens.job import job
from laglens.models.card import model_card
from laglens.models.fitting import fit_on_signal, validation_errors
from laglens.models.registry import build_trainable, pick_device
from laglens.store import read_dataset, write_table, write_weights

with job() as snakemake:
    spec, train = snakemake.params.spec, snakemake.params.spec["train"]
    signal = read_dataset(snakemake.input.signal)
    model = build_trainable(spec["architecture"], spec["options"], seed=train["seed"])
    model.to(pick_device(spec["device"]))
    curve = fit_on_signal(model, signal["value"], **train)
    errors = validation_errors(
        model,
        signal["value"],
        validation=train["validation"],
        stride=train["stride"],
        period=next(iter(signal.attrs["truth"].get("periods", [])), None),
    )
    card = model_card(
        model,
        name=snakemake.wildcards.model,
        architecture=spec["architecture"],
        options=spec["options"],
        trained_on=f"signal {snakemake.wildcards.signal}",
        training=train | curve.attrs,
        held_out_errors=errors,
        versions=spec["versions"],
    )
    write_table(curve.to_dataframe().reset_index(), snakemake.output.curve)
    write_weights(model.state_dict(), card, snakemake.output.weights)

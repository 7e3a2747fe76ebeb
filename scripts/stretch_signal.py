"""Find the period that every head follows to a fraction of a token, by stretching the signal in time."""

from laglens.attribution.stretch import stretch_or_say_why
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_dataset, read_tree, read_weights, write_tree

with job() as snakemake:
    spec, card, signal = snakemake.params.spec, read_card(snakemake.input.card), read_dataset(snakemake.input.signal)
    periods = stretch_or_say_why(
        restore_model(card, read_weights(snakemake.input.weights)),
        signal["value"],
        probe=read_tree(snakemake.input.probe),
        n=spec["windows"],
        per_series=spec["per_series"],
        confidence=spec["confidence"],
        seed=spec["seed"],
        memory_gb=spec["memory_gb"],
        device=pick_device(spec["device"]),
    )
    periods.attrs |= {"model": card, "signal": signal.attrs, "spec": spec, "versions": spec["versions"]}
    write_tree(periods, snakemake.output.periods)

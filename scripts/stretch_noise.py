"""Run a model on white noise stretched in time, and keep the lag profiles."""

from laglens.attribution.stretch import stretched_profiles
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.signals.stretch import stretched_noise
from laglens.store import read_card, read_weights, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    noise = stretched_noise(spec["noises"], model.history, seed=spec["seed"], name=snakemake.wildcards.fit)
    profiles = stretched_profiles(model, noise, memory_gb=spec["memory_gb"], device=pick_device(spec["device"]))
    profiles.attrs |= {"model": card, "spec": spec, "versions": spec["versions"]}
    write_tree(profiles, snakemake.output.profiles)

"""Run a model on noise and on waves of known period, stretched in time, and learn what its heads show of them."""

from laglens.attribution.stretch import stretch_probe
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_weights, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    probe = stretch_probe(
        restore_model(card, read_weights(snakemake.input.weights)),
        noises=spec["noises"],
        seed=spec["seed"],
        name=snakemake.wildcards.fit,
        memory_gb=spec["memory_gb"],
        device=pick_device(spec["device"]),
    )
    probe.attrs |= {"model": card, "spec": spec, "versions": spec["versions"]}
    write_tree(probe, snakemake.output.probe)

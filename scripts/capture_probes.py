"""Run a model on waves of swapped periods and on white noise, and keep the maps in time."""

from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.signals.probes import make_probes
from laglens.store import read_card, read_weights, write_tree
from laglens.time.probes import probe_time_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    probes = make_probes(
        model.stacks[0].key.step,
        model.history,
        model.horizon,
        periods=spec["periods"],
        inputs=spec["inputs"],
        noises=spec["noises"],
        seed=spec["seed"],
        name=snakemake.wildcards.fit,
    )
    for name, probe in probes.items():
        tree = probe_time_tree(
            model,
            probe,
            normalisation=spec["normalisation"],
            memory_gb=spec["memory_gb"],
            device=pick_device(spec["device"]),
            attrs={"model": card, "spec": spec, "versions": spec["versions"]},
        )
        write_tree(tree, snakemake.output[name])

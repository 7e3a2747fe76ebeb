"""Run a signal through the same architecture with random weights, and keep the mean map of each draw in time."""

from functools import partial

from laglens.job import job
from laglens.models.registry import pick_device
from laglens.models.untrained import untrained_model
from laglens.signals.windows import windows
from laglens.store import read_card, read_dataset, read_weights, write_tree
from laglens.time.probes import untrained_time_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    weights, signal = read_weights(snakemake.input.weights), read_dataset(snakemake.input.signal)
    models = [untrained_model(card, weights, seed=spec["seed"] + 1 + draw) for draw in range(spec["draws"])]
    n, per_series = spec["windows"], spec["per_series"]
    history, horizon, channels = models[0].history, models[0].horizon, models[0].channels
    tree = untrained_time_tree(
        models,
        signal,
        partial(windows, history=history, horizon=horizon, n=n, per_series=per_series, channels=channels),
        normalisation=spec["normalisation"],
        memory_gb=spec["memory_gb"],
        device=pick_device(spec["device"]),
        attrs={"model": card, "signal": signal.attrs, "spec": spec, "versions": spec["versions"]},
    )
    write_tree(tree, snakemake.output.time)

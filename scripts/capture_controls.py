"""Run a model on noise like a signal, and keep the mean map of each noise series in time."""

from functools import partial

from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.signals.windows import windows
from laglens.store import read_card, read_dataset, read_weights, write_tree
from laglens.time.controls import control_time_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    control = read_dataset(snakemake.input.control)
    n, per_series = spec["windows"], spec["per_series"]
    history, horizon, channels = model.history, model.horizon, model.channels
    tree = control_time_tree(
        model,
        control,
        partial(windows, history=history, horizon=horizon, n=n, per_series=per_series, channels=channels),
        normalisation=spec["normalisation"],
        memory_gb=spec["memory_gb"],
        device=pick_device(spec["device"]),
        attrs={"model": card, "signal": control.attrs, "spec": spec, "versions": spec["versions"]},
    )
    write_tree(tree, snakemake.output.time)

"""Run a model on windows of a signal and keep its attention."""

from laglens.attention.cube import attention_into
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.signals.windows import windows
from laglens.store import read_card, read_dataset, read_weights, tree_writer

CAPTURE = ("store", "dtype", "memory_gb", "statistics", "rollout")

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    signal = read_dataset(snakemake.input.signal)
    asked = {"n": spec["windows"], "per_series": spec["per_series"], "channels": model.channels}
    shown = windows(signal["value"], model.history, model.horizon, **asked)
    attrs = {"model": card, "signal": signal.attrs, "spec": spec, "versions": spec["versions"]}
    options = {name: spec[name] for name in CAPTURE}
    with tree_writer(snakemake.output.attention, [stack.name for stack in model.stacks]) as writer:
        attention_into(writer, model, shown, device=pick_device(spec["device"]), attrs=attrs, **options)

"""Run a model on windows of a signal and keep its attention."""

from laglens.attention.cube import attention_tree
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.signals.windows import windows
from laglens.store import read_card, read_dataset, read_weights, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    signal = read_dataset(snakemake.input.signal)
    tree = attention_tree(
        model,
        windows(signal["value"], card["history"], card["horizon"], spec["windows"]),
        dtype=spec["dtype"],
        device=pick_device(spec["device"]),
        attrs={"model": card, "signal": signal.attrs, "spec": spec, "versions": spec["versions"]},
    )
    write_tree(tree, snakemake.output.attention)

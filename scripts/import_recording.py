"""Make of a recording what a model of this environment would have given: its attention, and the maps of controls."""

from functools import partial

from laglens.attention.recorded import Recording, recorded_card, recorded_tree, shown_histories
from laglens.errors import LaglensError
from laglens.job import job
from laglens.signals.windows import windows
from laglens.store import read_dataset, write_tree
from laglens.time.recorded import recorded_controls

with job() as snakemake:
    spec, names, paths = snakemake.params.spec, snakemake.wildcards, snakemake.input
    if not paths.recording:
        raise LaglensError(
            f"there is no recording '{spec['folder']}/{names.signal}.npz'; its windows are in {paths.windows}: record "
            "them in the environment of the model (docs/models.md) and give the same command again"
        )
    signal, control = read_dataset(paths.signal), read_dataset(paths.control)
    cut = partial(
        windows,
        history=spec["history"],
        horizon=spec["horizon"],
        n=spec["windows"],
        per_series=spec["per_series"],
    )
    observed, controls = cut(signal["value"]), cut(control["value"])
    recording = Recording.read(paths.recording, shown_histories(observed, controls, spec["history"]))
    attrs = {"model": recorded_card(recording, names.model), "spec": spec}
    write_tree(recorded_tree(recording, observed, attrs | {"signal": signal.attrs}), snakemake.output.attention)
    noise = recorded_controls(
        recording, controls, attrs | {"signal": control.attrs}, normalisation=spec["normalisation"]
    )
    write_tree(noise, snakemake.output.controls)

"""Write the windows that a model in another environment is to be shown: those of a signal, and of noise like it."""

from functools import partial

from laglens.attention.exchange import WINDOWS, write_arrays
from laglens.attention.recorded import shown_histories
from laglens.job import job
from laglens.signals.windows import windows
from laglens.store import read_dataset

with job() as snakemake:
    spec, names = snakemake.params.spec, snakemake.wildcards
    cut = partial(
        windows,
        history=spec["history"],
        horizon=spec["horizon"],
        n=spec["windows"],
        per_series=spec["per_series"],
    )
    observed, controls = (cut(read_dataset(path)["value"]) for path in snakemake.input)
    about = {"kind": WINDOWS, "model": names.model, "signal": names.signal, "statistics": spec["statistics"]}
    about |= {"history": spec["history"], "horizon": spec["horizon"]}
    write_arrays(snakemake.output.windows, shown_histories(observed, controls, spec["history"]), about)

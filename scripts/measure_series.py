"""Run a model on every series of a panel and on noise like it, and find the lag that stands out in each."""

from laglens.job import job
from laglens.lags.series import SeriesRatios, judge_series, said_of_series, series_names, series_table
from laglens.models.registry import pick_device, restore_model
from laglens.progress import logger
from laglens.store import read_card, read_dataset, read_weights, write_table, write_tree
from laglens.time.series import series_into

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    signal, control = read_dataset(snakemake.input.signal), read_dataset(snakemake.input.control)
    n_series = signal.sizes["sample"]
    ratios = SeriesRatios(model.history, n_series, max_lag=spec["max_lag"])
    options = {name: spec[name] for name in ("controls", "normalisation", "memory_gb")}
    options |= {"per_series": max(spec["per_series"], spec["windows"] // n_series)}
    if model.channels == 1:
        n = series_into(ratios, model, signal, control, device=pick_device(spec["device"]), **options)
    else:
        n, ratios.left_out["all"] = 0, f"the model takes {model.channels} series together, so none has its own maps"
    tested = judge_series(ratios.tree, series_names(signal), confidence=spec["confidence"])
    table = series_table(tested, signal, model.history, n)
    logger.info("%s", said_of_series(table, confidence=spec["confidence"]))
    tested.attrs |= {"model": card, "signal": signal.attrs, "spec": spec, "versions": spec["versions"]}
    write_tree(tested, snakemake.output.series)
    write_table(table, snakemake.output.table)

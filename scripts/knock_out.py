"""Cut the attention at a signal's periods, lag by lag and head by head, and see what the forecast loses."""

from laglens.attribution.causal import knock_out_table, measure_knock_outs
from laglens.attribution.ranking import rank_heads
from laglens.job import job
from laglens.lags.periods import periods_to_test
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_tree, read_weights, write_table, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    model = restore_model(card, read_weights(snakemake.input.weights))
    windows = read_tree(snakemake.input.time).to_dataset()  # the very windows whose attention was read
    shown = windows["series"].isel(time=slice(model.history))
    periods, source = periods_to_test(windows.attrs["signal"], shown, model.stacks[0].key.step, model.history)
    effects = measure_knock_outs(
        model,
        windows,
        [] if source == "grid" else periods,
        half_width=spec["half_width"],
        seed=spec["seed"],
        device=pick_device(spec["device"]),
    )
    write_table(knock_out_table(effects, confidence=spec["confidence"], seed=spec["seed"]), snakemake.output.table)
    write_table(rank_heads(effects, confidence=spec["confidence"], seed=spec["seed"]), snakemake.output.heads)
    write_tree(effects, snakemake.output.effects)

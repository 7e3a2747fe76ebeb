"""Event-locked attention: planted excess, matched positions, events counted once, no events without reason."""

import numpy as np
import pytest
import xarray as xr
from trees import node_of, time_tree

from laglens.errors import LaglensError
from laglens.heads.events import events_of, events_table, lock_to_events, mean_and_interval
from laglens.signals.make import make_signal

HISTORY, STEP, WINDOWS = 64, 2, 24
FACTOR = 3.0  # what a token that holds an event gets, of that of others


def tree_with_events(indices: list[int], *, factor: float = FACTOR, only_lag: int | None = None) -> xr.DataTree:
    """Windows every 8 samples; their heads give a key token that holds an event `factor` times the weight."""
    tree = time_tree(history=HISTORY, horizon=0, step=STEP, samples=WINDOWS, horizon_tokens=False, readout="last",
                     stacks={"encoder": (0,)}, heads=("decay", "uniform"), noise=0.0)  # fmt: skip
    node = node_of(tree)
    weights = node["attention"].values.astype(float)
    for window in range(WINDOWS):
        for index in indices:
            key = (index - 8 * window) // STEP
            if 0 <= index - 8 * window < HISTORY:
                queries = slice(None) if only_lag is None else [q for q in range(32) if q - key == only_lag]
                weights[window, :, :, queries, key] *= factor
    weights /= weights.sum(-1, keepdims=True)
    root = tree.to_dataset()
    root.attrs["signal"] = root.attrs["signal"] | {"truth": {"events": {"jumps": [indices]}}}
    return xr.DataTree.from_dict({"/": root, "/encoder": node.assign(attention=(node["attention"].dims, weights))})


def test_a_planted_excess_is_found_at_every_time_since_the_event() -> None:
    events = [70, 111, 150, 193, 230]
    locked = lock_to_events(tree_with_events(events))["encoder"].to_dataset().sel(part="history->history")
    assert locked["index"].values.tolist() == events
    uniform = locked.sel(head=1).isel(layer=0)
    # Of 32 keys at least one has 3 times the weight of the others: 3 * 32 / 34 or less.
    assert ((uniform["excess"] > 1.5) & (uniform["excess"] < 2)).where(uniform["excess"].notnull()).min() == 1
    np.testing.assert_allclose(locked["excess"], locked["received"] - locked["matched"], atol=1e-12)
    assert (locked["overall"] > 0.5).all()


def test_attention_that_prefers_near_keys_but_no_events_has_no_excess() -> None:
    locked = lock_to_events(tree_with_events([70, 111, 150, 193, 230], factor=1.0))
    node = locked["encoder"].to_dataset().sel(part="history->history")
    np.testing.assert_allclose(node["excess"].where(node["excess"].notnull(), 0), 0, atol=1e-12)
    assert float(node["received"].sel(head=0).max()) > 1.1


def test_the_time_since_the_event_is_that_of_the_query() -> None:
    locked = lock_to_events(tree_with_events([100, 137, 181], only_lag=5))["encoder"].to_dataset()
    mean = locked.sel(part="history->history", head=1)["excess"].isel(layer=0).mean("event")
    from_time = mean["since_from"].values
    assert from_time.tolist()[:4] == [0, 2, 4, 8] and mean["since_to"].values.tolist()[:4] == [2, 4, 8, 16]
    strongest = int(np.nanargmax(mean.values))
    assert from_time[strongest] == 8  # 5 tokens are 10 samples
    others = np.delete(mean.values, strongest)
    assert np.nanmax(np.abs(others)) < 0.1 < float(mean.max())


def test_an_excess_equals_a_naive_loop_over_windows_and_pairs() -> None:
    tree, index = tree_with_events([100]), 100
    weights = tree["encoder/attention"].values[:, 0, 0]
    places = {w: (index - 8 * w) // STEP for w in range(WINDOWS) if 0 <= index - 8 * w < HISTORY}
    received, matched = [], []
    for window, key in places.items():
        quiet = [w for w in range(WINDOWS) if w not in places or abs(places[w] - key) > 2]
        for query in range(key + 2, min(key + 4, 32)):  # 2 and 3 tokens after it
            received.append(32 * weights[window, query, key])
            matched.append(np.mean([32 * weights[w, query, key] for w in quiet]))
    here = (
        lock_to_events(tree)["encoder"]
        .to_dataset()
        .sel(part="history->history", head=0)
        .isel(layer=0, event=0, since=2)
    )
    assert here["received"] == pytest.approx(np.mean(received))
    assert here["excess"] == pytest.approx(np.mean(received) - np.mean(matched))


def test_the_table_has_intervals_over_events_and_none_of_fewer_than_five() -> None:
    table = events_table(lock_to_events(tree_with_events([70, 111, 150, 193, 230])))
    whole = table[table["since_from"].isna() & (table["part"] == "history->history")]
    assert (whole["n_events"] == 5).all() and (whole["low"] > 0).all() and (whole["high"] >= whole["excess"]).all()
    few = events_table(lock_to_events(tree_with_events([70, 111])))
    assert few["low"].isna().all() and few["n_events"].max() == 2


def test_an_interval_covers_the_mean_of_independent_units() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 1.0, (40, 200))
    values[rng.random(values.shape) < 0.1] = np.nan
    found = mean_and_interval(values, confidence=0.95, seed=0)
    np.testing.assert_allclose(found["mean"], np.nanmean(values, 0))
    assert 0.88 < ((found["low"] < 1) & (found["high"] > 1)).mean() <= 1


def test_every_generator_with_events_names_them() -> None:
    kinds = {
        "heavy_tailed_ar1": "spikes",
        "garch11": "bursts",
        "jump_diffusion": "jumps",
        "regime_switching": "switches",
        "trend_breaks": "breaks",
        "season_trend_outliers": "outliers",
    }
    for generator, kind in kinds.items():
        for variant in ("corrected", "published"):
            signal = make_signal({"generator": generator, "variant": variant}, name="signal")
            events = events_of(signal.attrs)
            assert events and {event.kind for event in events} == {kind}, (generator, variant)


def test_signals_without_events_and_events_out_of_sight_are_refused() -> None:
    with pytest.raises(LaglensError, match="the signal has no known events"):
        lock_to_events(time_tree())
    with pytest.raises(LaglensError, match="none of the 1 events of the signal lies in a window"):
        lock_to_events(tree_with_events([5000]))

"""Kinds of series against each other: planted differences between groups, seeds as the unit, untrained beside."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from laglens.config.load import load_study
from laglens.errors import LaglensError
from laglens.heads.distributions import Trained, distribution_values, event_responses, seed_spread
from laglens.heads.questions import PREDICTABLE, QUESTIONS, UNPREDICTABLE, answer_questions
from laglens.models.fitting import fit_on_signal
from laglens.models.registry import build_trainable

KINDS = (*PREDICTABLE, "random_walk", "garch11")


def result(
    generator: str, seed: int, gini: float, *, group: str = "trained", excess: float = 0.5, epochs: int = 40,
    variant: str = "corrected",
) -> Trained:  # fmt: skip
    rows = [("encoder", layer, head, part) for layer in (0, 1) for head in (0, 1)
            for part in ("readout->history", "history->history")]  # fmt: skip
    heads = pd.DataFrame(rows, columns=["stack", "layer", "head", "part"])
    heads = heads.assign(gini=np.where(heads["layer"] == 0, gini, 9.0), relative_entropy=0.8, distance=20.0)
    heads["top_lag"] = 10.0 + 40 * heads["layer"] + 2 * heads["head"]
    heads["distance_uniform"] = 50.0
    bins = [(np.nan, np.nan, excess), (0.0, 1.0, 2.0), (4.0, 8.0, 1.0), (32.0, 64.0, 0.1)]
    events = pd.DataFrame(
        [(*row, *one) for row in rows for one in bins],
        columns=["stack", "layer", "head", "part", "since_from", "since_to", "excess"],
    )
    events = events.assign(event="burst", low=events["excess"] - 1, high=events["excess"] + 1, n_events=6)
    trained = group == "trained"
    card = {"training": {"epochs": epochs if trained else 0, "best_epoch": 3}} | {
        "held_out_errors": {"model": 0.5, "last_value": 1.0, "mean": 2.0}
    }
    curve = pd.DataFrame({"epoch": [1, 2, 3, 8], "validation_loss": [3.0, 2.0, 1.0, 1.5]})
    known = events if generator == "garch11" else None
    if not trained:
        curve = pd.DataFrame({"epoch": [0], "validation_loss": [4.0]})
    return Trained(group, seed, f"m{seed}", generator, f"{generator} ({variant})", heads, known, card, curve)


def results(difference: float, seeds: int = 3) -> list[Trained]:
    rng = np.random.default_rng(0)
    return [
        result(kind, seed, 0.3 + difference * (kind in PREDICTABLE) + 0.01 * rng.normal())
        for seed in range(seeds)
        for kind in KINDS
    ]


def test_values_are_means_over_heads_of_the_rows_they_are_named_after() -> None:
    values = distribution_values([result("garch11", 2, 0.4)]).iloc[0]
    assert values["gini_first"] == pytest.approx(0.4) and values["gini_forecast"] == 9
    assert values["distance_forecast"] == pytest.approx(0.4)
    assert (values["top_lag_first"], values["top_lag_forecast"]) == (11, 51)
    assert (values["excess"], values["excess_early"], values["excess_late"]) == pytest.approx((0.5, 1.5, 0.1))
    assert values["skill"] == pytest.approx(0.5)
    assert (values["epochs"], values["best_epoch"], bool(values["plateau"]), values["validation_loss"]) == (
        8,
        3,
        True,
        1,
    )
    assert (values["generator"], values["variant"], values["seed"]) == ("garch11", "corrected", 2)


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    found = answer_questions(distribution_values(results(0.2))).set_index("question")
    row = found.loc["predictability"]
    assert row["effect"] == pytest.approx(0.2, abs=0.02) and 0 < row["low"] < row["effect"] < row["high"]
    assert row["answer"] == "more" and row["in_seed_sd"] > 5
    assert (row["n_seeds"], row["n_series"]) == (3, 4)
    none = answer_questions(distribution_values(results(0.0))).set_index("question").loc["predictability"]
    assert none["low"] < 0 < none["high"] and none["answer"] == "no difference found"
    assert "spikes" not in found.index and set(UNPREDICTABLE) & set(KINDS)
    assert found.loc["turbulence", "effect"] == pytest.approx(0.5)


def test_two_seeds_have_no_interval_and_unknown_series_no_answer() -> None:
    row = answer_questions(distribution_values(results(0.2, seeds=2))).set_index("question").loc["predictability"]
    assert np.isnan(row["low"]) and row["answer"] == "too few seeds"
    other = distribution_values([result("harmonics", 0, 0.1)])
    with pytest.raises(LaglensError, match="none of the questions"):
        answer_questions(other)


def test_groups_are_answered_apart_and_the_spread_tells_series_from_seeds() -> None:
    both = results(0.2) + [result(kind, seed, 0.1, group="untrained") for seed in range(3) for kind in KINDS]
    values = distribution_values(both)
    found = answer_questions(values)
    ours = found[found["question"] == "predictability"].set_index("group")
    assert ours.loc["untrained", "effect"] == pytest.approx(0)
    assert ours.loc["untrained", "answer"] == "seeds do not differ" and np.isnan(ours.loc["untrained", "low"])
    spread = seed_spread(values).set_index(["group", "measure"])
    assert spread.loc[("trained", "gini_first"), "p"] < 0.001
    assert ("untrained", "gini_first") not in spread.index  # no spread at all
    assert not values.loc[values["group"] == "untrained", "plateau"].any()


def test_trainings_without_plateau_are_left_out_and_counted() -> None:
    """One seed of one series ran into its most epochs, with heads unlike all others."""
    cut_off = result("multi_seasonality", 2, 9.0, epochs=8)
    every = [one for one in results(0.2) if (one.seed, one.signal) != (2, "multi_seasonality")] + [cut_off]
    values = distribution_values(every)
    assert values["plateau"].sum() == len(values) - 1
    row = answer_questions(values).set_index("question").loc["predictability"]
    assert row["effect"] == pytest.approx(0.2, abs=0.02) and row["n_left_out"] == 1
    assert seed_spread(values).set_index("measure").loc["gini_first", "n_seeds"] == 2
    rest = [one for one in every if one.seed == 2 or one.signal != "multi_seasonality"]
    assert answer_questions(distribution_values(rest)).set_index("question").loc["predictability", "n_left_out"] == 1


def test_how_far_trainings_came_stands_beside_the_effect() -> None:
    untrained = [result(kind, 0, 0.1, group="untrained") for kind in KINDS]
    values = distribution_values(results(0.2) + untrained)
    assert set(values.loc[values["group"] == "trained", "gain"]) == {0.75}  # from 4 to 1
    assert values.loc[values["group"] == "untrained", "gain"].isna().all()
    row = answer_questions(values).set_index(["question", "group"]).loc[("predictability", "trained")]
    assert (row["best_epoch"], row["other_best_epoch"], row["gain"], row["other_gain"]) == (3, 3, 0.75, 0.75)


def test_variants_of_the_series_are_answered_apart() -> None:
    published = [result(kind, seed, 0.5, variant="published") for kind in KINDS for seed in range(3)]
    found = answer_questions(distribution_values(results(0.2) + published))
    ours = found[found["question"] == "predictability"].set_index("variant")["effect"]
    assert ours["published"] == pytest.approx(0) and ours["corrected"] == pytest.approx(0.2, abs=0.02)
    assert len(answer_questions(distribution_values(published)))


def test_responses_to_events_have_intervals_over_seeds_and_over_events() -> None:
    ours = [result("garch11", seed, 0.3, excess=excess) for seed, excess in enumerate((0.4, 0.5, 0.9))]
    found = event_responses([*ours, result("random_walk", 0, 0.3), result("garch11", 3, 0.3, excess=50.0, epochs=8)])
    assert found["signal"].unique().tolist() == ["garch11"]
    overall = found[found["since_from"].isna()].iloc[0]
    half = 4.302653 * np.std([0.4, 0.5, 0.9], ddof=1) / np.sqrt(3)
    assert (overall["excess"], overall["low"]) == pytest.approx((0.6, 0.6 - half), rel=1e-5)
    assert (overall["events_low"], overall["events_high"]) == pytest.approx((-0.4, 1.6))
    assert (overall["n_seeds"], overall["n_events"]) == (3, 6)
    later = found[found["since_from"] == 4.0].iloc[0]
    assert (later["excess"], later["since_to"]) == (1.0, 8.0)
    assert not len(event_responses([result("random_walk", 0, 0.3)]))


def test_the_page_and_its_figure_hold_every_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[1] / "docs" / "distributions.py"
    spec = importlib.util.spec_from_file_location("distributions_page", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    every = results(0.2) + [result(kind, 0, 0.1, group="untrained") for kind in KINDS]
    every.append(result("one_over_f", 0, 0.3, epochs=8))
    values = distribution_values(every)
    answers = answer_questions(values)
    folder = tmp_path / "results" / "distributions"
    folder.mkdir(parents=True)
    tables = {"": values, ".answers": answers, ".spread": seed_spread(values), ".events": event_responses(every)}
    for suffix, table in tables.items():
        table.to_csv(folder / f"kinds{suffix}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(module, "PICTURES", tmp_path / "images")
    answers.assign(effect=0.5, low=-0.1, high=1.1, in_seed_sd=2.0).to_csv(folder / "few.answers.csv", index=False)
    module.main("kinds", "few")
    text = (tmp_path / "page.md").read_text()
    for row in answers.itertuples():
        assert f"| {row.group} | {row.effect:.3f} |" in text.partition(f"## {row.text}")[2]
        picture = f"images/distributions_kinds_{row.question}.png"
        assert f"({picture})" in text and (tmp_path / picture).stat().st_size > 4000
    assert "**Attention is more concentrated on series with a pattern**" in text
    assert text.partition("## few")[2].count("| Not decided: larger than what lies between two trainings") > 3
    assert "Not decided" not in text.partition("## few")[0] and (tmp_path / "images/distributions_few.png").is_file()
    assert "outside that interval: training changed it" in text
    assert "12 of 13\ndid; left out of every answer: `m0` on `one_over_f`" in text
    assert set(module.READINGS) == {question.name for question in QUESTIONS}


def test_no_epochs_leave_the_weights_as_they_are() -> None:
    model = build_trainable("encoder", {"history": 16, "horizon": 4, "width": 8, "heads": 2, "layers": 1}, seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 150)), dims=("sample", "time"))
    curve = fit_on_signal(model, value, epochs=0)
    assert curve["epoch"].values.tolist() == [0] and curve.attrs["best_epoch"] == 0
    assert np.isfinite(curve["validation_loss"]).all()
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trained": ["fist"]}, r"distributions.kinds.trained\[0\]: there is no model 'fist'"),
        ({"untrained": ["first"]}, r"untrained\[0\]: 'first' has train.epochs 40; untrained models have 0"),
        ({"trained": ["none"]}, r"trained\[0\]: 'none' has train.epochs 0"),
        ({"trained": ["image"]}, r"trained\[0\]: 'image' is not trained on each signal"),
        ({"signals": ["walk", "sunspots"]}, r"signals\[1\]: 'sunspots' is not generated"),
        ({"signals": ["walk", "walk"]}, r"signals\[1\]: 'walk' is named twice"),
        ({"trained": ["first", "first"]}, r"trained\[1\]: 'first' is named twice"),
        ({"trained": ["first", "same"]}, r"trained\[1\]: 'same' and 'first' are the same training, both .*seed 0"),
        ({"trained": ["first", "narrow"]}, r"trained\[1\]: 'narrow' has width 32, 'first' 64; .*seed alone"),
        ({"trained": ["first", "short"]}, r"trained\[1\]: 'short' has train.epochs 9, 'first' 40; models of"),
        ({"untrained": ["none", "none_narrow"]}, r"untrained\[1\]: 'none_narrow' has width 32, 'first' 64"),
    ],
)
def test_a_study_that_cannot_be_compared_is_refused_before_it_runs(change: dict, message: str) -> None:
    kinds = {"trained": ["first"], "untrained": ["none"], "signals": ["walk", "walk_2"]} | change
    models = {"first": {"architecture": "encoder"}, "image": {"architecture": "image", "train": {"steps": 5}}}
    models["same"] = {"architecture": "encoder", "train": {"epochs": 40}}
    models["narrow"] = {"architecture": "encoder", "width": 32, "train": {"seed": 1}}
    models["short"] = {"architecture": "encoder", "train": {"epochs": 9, "seed": 2}}
    models["none"] = {"architecture": "encoder", "train": {"epochs": 0}}
    models["none_narrow"] = {"architecture": "encoder", "width": 32, "train": {"epochs": 0, "seed": 1}}
    signals = {name: {"generator": "random_walk"} for name in ("walk", "walk_2")} | {
        "sunspots": {"dataset": "sunspots"}
    }
    runs = [{"models": ["first"], "signals": ["walk"]}]
    with pytest.raises(LaglensError, match=message):
        load_study({"signals": signals, "models": models, "runs": runs, "distributions": {"kinds": kinds}})

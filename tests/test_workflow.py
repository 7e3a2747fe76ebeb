"""Which jobs run again after one change: the real workflow with a tiny study, run once, then changed and dry-run."""

import csv
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from workflow_copy import REPOSITORY, WorkflowCopy

# Jobs of the whole tiny study, by rule: model `once` on two signals, model `each` on one.
DRAWN = {"draw_run": 3, "draw_comparison": 1}
DRAWN_ELSE = {"draw_evidence": 3, "draw_model": 2, "draw_tracking": 2, "draw_training": 2}
REPORTED = {"build_explorer": 1, "summarise": 1}
VECTORS = {"capture_vectors": 3}
FROM_LAGS = {"measure_lags": 3, "compare_signals": 1} | VECTORS | DRAWN | REPORTED
CLASSED = {"classify_heads": 3}
SHOWN = {"draw_evidence": 3}
JUDGED = {"test_lags": 3} | VECTORS | CLASSED | SHOWN | REPORTED
MEASURED = {"measure_heads": 3, "compare_heads": 3, "draw_model": 2, "draw_run": 3, "build_explorer": 1} | CLASSED
RANKED = {"rank_explanations": 1}
EXPLAINED = {"attribute_forecast": 3} | RANKED | SHOWN
FLOWED = {"roll_out": 3, "draw_run": 3} | EXPLAINED
HEADS = MEASURED | {"measure_importance": 3}
OVER_ALL = REPORTED | RANKED
BESIDE_LAGS = HEADS | FLOWED | {"knock_out": 3} | REPORTED
FROM_TIME = {"reduce_to_time": 3} | BESIDE_LAGS | FROM_LAGS | JUDGED
FROM_ATTENTION = {"capture_attention": 3} | FROM_TIME
FROM_CONTROLS = {"capture_controls": 3} | FROM_LAGS | JUDGED
FROM_UNTRAINED = {"capture_untrained": 3} | JUDGED
FOLLOWED = {"follow_periods": 2, "draw_tracking": 2} | JUDGED
FROM_PROBES = {"capture_probes": 2} | FOLLOWED
FROM_WINDOWS = FROM_CONTROLS | FROM_ATTENTION | FROM_UNTRAINED
FROM_CAPTURE = FROM_WINDOWS | FROM_PROBES
TRAINED = {"train_model": 1, "train_forecaster": 1, "draw_training": 2}
FROM_MODELS = TRAINED | FROM_CAPTURE
# The model that is trained on each signal, and what is asked of it alone.
FITTED = dict.fromkeys(("train_forecaster", "draw_training", "capture_probes", "follow_periods", "draw_tracking"), 1)
FROM_SIGNALS = {"make_signal": 2, "make_control": 2} | FITTED | FROM_WINDOWS
FROM_SEED = FROM_SIGNALS | FROM_PROBES
EVERYTHING = FROM_SIGNALS | FROM_MODELS
# One of the signals: `table` is seen by `once` alone, `wave` by both models.
SIGNAL = {"make_signal": 1, "make_control": 1, "compare_signals": 1, "draw_comparison": 1}
PER_RUN = (
    "capture_attention", "capture_controls", "capture_untrained", "reduce_to_time", "measure_lags", "test_lags",
    "capture_vectors",
    *(name for name in BESIDE_LAGS if name not in OVER_ALL), "draw_run",
)  # fmt: skip
FROM_TABLE = SIGNAL | dict.fromkeys(PER_RUN, 1) | OVER_ALL
FROM_WAVE = SIGNAL | dict.fromkeys(PER_RUN, 2) | FITTED | OVER_ALL
# One of the models.
FROM_ONCE = {"train_model": 1, "draw_training": 1, "compare_signals": 1, "draw_comparison": 1} | dict.fromkeys(
    PER_RUN, 2
)
FROM_ONCE |= {"draw_model": 1, "capture_probes": 1, "follow_periods": 1, "draw_tracking": 1} | OVER_ALL
FROM_EACH = FITTED | dict.fromkeys(PER_RUN, 1) | OVER_ALL

Change = Callable[[WorkflowCopy], None]


def configure(**changes: object) -> Change:
    """Set keys of the study; two underscores stand for a dot."""
    return lambda workflow: workflow.configure({key.replace("__", "."): value for key, value in changes.items()})


def append(file: str, text: str = "\n_CHANGED = True\n") -> Change:
    """Add code at the end of a file."""

    def change(workflow: WorkflowCopy) -> None:
        path = workflow.root / file
        path.write_text(path.read_text() + text)

    return change


def append_with_old_date(file: str) -> Change:
    """As a version control system or an archive may leave it."""

    def change(workflow: WorkflowCopy) -> None:
        before = (workflow.root / file).stat()
        append(file)(workflow)
        os.utime(workflow.root / file, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def edit(file: str, old: str, new: str) -> Change:
    return lambda workflow: workflow.edit(file, old, new)


def remove(file: str) -> Change:
    return lambda workflow: (workflow.root / file).unlink()


def comments_docstrings_and_layout(workflow: WorkflowCopy) -> None:
    workflow.edit("scripts/measure_lags.py", '"""', '"""Truly: ')
    workflow.edit("src/laglens/lags/measure.py", '"""', '"""Truly: ')
    workflow.edit(
        "src/laglens/store/weights.py", "        return json.loads", "        # comment\n\n        return json.loads"
    )
    append("src/laglens/attention/cube.py", "\n\n# the end\n")(workflow)
    append("Snakefile", "\n\n# the end\n")(workflow)
    append("config.yaml", "\n# the end\n")(workflow)


def unrelated_code(workflow: WorkflowCopy) -> None:
    (workflow.root / "src" / "laglens" / "lags" / "new.py").write_text("ANSWER = 42\n")
    workflow.edit("rules/lags.smk", "mem_mb=grown(3000)", "mem_mb=grown(3001)")
    workflow.edit("rules/lags.smk", "priority: 80", "priority: 81")


def reordered_study(workflow: WorkflowCopy) -> None:
    path = workflow.root / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("signals: [wave, table]}\n  - ", "signals: [table, wave]}\n  - ", 1))
    assert path.read_text() != text
    # A default written out, keys of a section in another order.
    workflow.configure({"lags.confidence": 0.95, "figures": {"dpi": 60, "formats": ["png"], "gamma": 0.5}})


def touch_everything(workflow: WorkflowCopy) -> None:
    now = time.time()
    for folder in ("scripts", "src", "rules", "results/signals", "results/attention", "results/time"):
        for path in (workflow.root / folder).rglob("*"):
            os.utime(path, (now, now))
    for name in ("Snakefile", "config.yaml", "series.csv"):
        os.utime(workflow.root / name, (now, now))


def less_to_do(workflow: WorkflowCopy) -> None:
    workflow.configure(
        {"signals.table": None, "comparisons": None, "runs": [{"models": ["once"], "signals": ["wave"]}]}
    )


def one_signal_more(workflow: WorkflowCopy) -> None:
    noise = {"generator": "planted_lag", "lag": 9, "length": 120}
    run = [{"models": ["once"], "signals": ["wave", "table", "noise"]}, {"models": ["each"], "signals": ["wave"]}]
    workflow.configure({"signals.noise": noise, "runs": run})


def swap_two_values(workflow: WorkflowCopy) -> None:
    workflow.edit("config.yaml", "amplitude: 1.0", "amplitude: 0.25")
    workflow.edit("config.yaml", "noise: 0.25", "noise: 1.0")


NOTHING: dict[str, int] = {}
CHANGES: dict[str, tuple[Change, dict[str, int]]] = {
    "nothing": (lambda workflow: None, NOTHING),
    "comments, docstrings, layout": (comments_docstrings_and_layout, NOTHING),
    "a module nobody imports, resources, priority": (unrelated_code, NOTHING),
    "order of keys and of signals, a default written out": (reordered_study, NOTHING),
    "touch of everything": (touch_everything, NOTHING),
    "a signal and a comparison removed": (less_to_do, {"draw_model": 1} | OVER_ALL),
    "an intermediate cube deleted": (remove("results/time/once/wave.zarr.zip"), NOTHING),
    "figure gamma": (configure(figures__gamma=0.7), DRAWN),
    "figure dpi": (configure(figures__dpi=61), DRAWN | DRAWN_ELSE),
    "figure format added": (configure(figures__formats=["png", "svg"]), DRAWN | DRAWN_ELSE),
    "one figure deleted": (remove("results/figures/once/table/mosaic.png"), {"draw_run": 1}),
    "max lag": (configure(lags__max_lag=16), FROM_LAGS),
    "number of controls": (configure(lags__controls=20), {"make_control": 2} | FROM_CONTROLS),
    "local window of heads": (configure(heads__window=5), MEASURED),
    "fusion of heads": (configure(flow__fusion="max"), FLOWED),
    "maximum flow": (configure(flow__maximum="none"), FLOWED),
    "draws of random weights": (configure(lags__untrained=4), FROM_UNTRAINED),
    "waves of the period swap": (configure(lags__swap_inputs=4), FROM_PROBES),
    "stretched signals too": (configure(lags__stretch=True), {"stretch_probe": 2, "stretch_signal": 3} | JUDGED),
    "the table as a panel": (configure(signals__table__column="*"), FROM_TABLE | {"measure_series": 1}),
    "permutations": (configure(lags__permutations=99), FOLLOWED),
    "width of a knock-out": (configure(attribution__half_width=0.5), {"knock_out": 3} | SHOWN | REPORTED),
    "explained forecast sample": (configure(attribution__step=2), EXPLAINED),
    "window of the explorer": (configure(report__window=1), VECTORS | {"build_explorer": 1}),
    "heads whose vectors are kept": (configure(heads__vectors=["encoder L00 H00"]), VECTORS | {"build_explorer": 1}),
    "no vectors": (configure(heads__vectors=[]), {"build_explorer": 1}),
    "normalisation": (configure(time__normalisation="mean"), FROM_CONTROLS | FROM_TIME | FROM_UNTRAINED | FROM_PROBES),
    "dtype of the cubes": (configure(attention__dtype="float32"), FROM_ATTENTION),
    "number of windows": (configure(attention__windows=5), FROM_WINDOWS),
    "one signal's parameter": (edit("config.yaml", "period: 16", "period: 17"), FROM_WAVE),
    "two values swapped": (swap_two_values, FROM_WAVE),
    "one signal added": (one_signal_more, {"make_signal": 1, "make_control": 1} | dict.fromkeys(PER_RUN, 1) | OVER_ALL),
    "the user's table": (edit("series.csv", "value\n", "value\n0.5\n"), FROM_TABLE),
    "training budget of one model": (configure(models__once__train__steps=5), FROM_ONCE),
    "options of the other model": (configure(models__each__layers=2), FROM_EACH),
    "seed of the study": (configure(seed=1), FROM_SEED),
    "script of the signals": (append("scripts/make_signal.py"), FROM_SIGNALS),
    "script of the lags": (append("scripts/measure_lags.py"), {"measure_lags": 3, "draw_run": 3} | VECTORS | REPORTED),
    "script of the figures": (append("scripts/draw_run.py"), {"draw_run": 3}),
    "library: generators": (append("src/laglens/signals/generators.py"), FROM_SIGNALS),
    "library: controls": (append("src/laglens/signals/controls.py"), {"make_control": 2} | FROM_CONTROLS),
    "library: windows": (append("src/laglens/signals/windows.py"), FROM_CAPTURE),
    "library: training on a signal": (append("src/laglens/models/fitting.py"), FROM_EACH),
    "library: models": (append("src/laglens/models/encoder.py"), FROM_EACH),
    "library: attention": (append("src/laglens/attention/cube.py"), FROM_CAPTURE),
    "library: time": (
        append("src/laglens/time/reduce.py"),
        FROM_CONTROLS | FROM_TIME | FROM_UNTRAINED | FROM_PROBES,
    ),
    "library: lags, with an old date": (
        append_with_old_date("src/laglens/lags/profiles.py"),
        FROM_LAGS | FOLLOWED | FLOWED | {"knock_out": 3},
    ),
    "library: comparison of lags": (
        append("src/laglens/lags/comparison.py"),
        {"compare_signals": 1, "draw_comparison": 1},
    ),
    "library: mosaic": (append("src/laglens/figures/mosaic.py"), {"draw_run": 3}),
    "library: figure style": (append("src/laglens/figures/style.py"), DRAWN | DRAWN_ELSE | {"build_explorer": 1}),
    "library: occlusion": (append("src/laglens/attribution/methods.py"), EXPLAINED),
    "library: summary": (append("src/laglens/report/summary.py"), {"summarise": 1}),
    "a module of the page": (append("src/laglens/report/page/main.js", "// changed\n"), {"build_explorer": 1}),
    "package init of the lags": (
        append("src/laglens/lags/__init__.py"),
        BESIDE_LAGS | FROM_LAGS | FOLLOWED,
    ),
    "library: store": (append("src/laglens/store/files.py"), EVERYTHING),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_only_the_stale_is_rerun(workflow: WorkflowCopy, change: Change, expected: dict[str, int]) -> None:
    change(workflow)
    assert workflow.stale() == expected


def test_targets_of_their_own_need_the_models_alone(tmp_path: Path) -> None:
    workflow = WorkflowCopy.create(tmp_path / "own")
    everything = workflow.stale()
    workflow.configure({"calibration": {"models": ["once"]}, "claims": {"models": ["once"], "signals": ["wave"]}})
    assert workflow.stale() == everything
    measured = ("calibrate_noise", "calibrate_waves", "calibrate_knock_out", "summarise_calibration")
    assert workflow.stale("calibration") == dict.fromkeys(("train_model", *measured, "draw_calibration"), 1)
    asked = workflow.stale("claims")
    assert {
        "remove_periods": 1,
        "ask_claims": 1,
        "draw_claims": 1,
        "test_lags": 1,
        "knock_out": 1,
    }.items() <= asked.items()
    assert "train_forecaster" not in asked


def test_a_new_version_of_torch_reruns_what_runs_models(workflow: WorkflowCopy, tmp_path: Path) -> None:
    fake = tmp_path / "site" / "torch-99.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 99.0\n")
    assert workflow.stale(python_path=fake.parent) == FROM_MODELS


def test_figures_are_drawn_again_without_torch_and_the_run_says_where_to_look(
    workflow: WorkflowCopy, tmp_path: Path
) -> None:
    for package in ("torch", "timm", "torchvision", "statsmodels"):
        (tmp_path / "poison" / package).mkdir(parents=True)
        (tmp_path / "poison" / package / "__init__.py").write_text(f"raise ImportError('{package} is poisoned')\n")
    before = workflow.results()
    workflow.configure({"figures.gamma": 0.7, "figures.dpi": 61})
    run = workflow.snakemake(python_path=tmp_path / "poison")
    assert run.returncode == 0, run.stdout
    assert "43 of 43 files of the study are in results/figures" in run.stdout
    assert "open         results/explorer.html" in run.stdout
    assert re.search(r"^  each +wave +(no|not testable|16 samples) ", run.stdout, re.MULTILINE), run.stdout
    after = workflow.results()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.startswith("figures/")}
    assert workflow.stale() == {}


def test_the_same_figures_are_the_same_bytes(workflow: WorkflowCopy) -> None:
    before = workflow.results()
    shutil.rmtree(workflow.root / "results" / "figures")
    assert workflow.snakemake().returncode == 0
    assert workflow.results() == before


def test_cubes_that_are_not_kept_are_removed_and_missed_by_nothing_else(workflow: WorkflowCopy) -> None:
    before = workflow.results()
    workflow.configure({"attention.keep": False, "time.keep": False})
    assert workflow.stale() == {}
    assert workflow.snakemake("--delete-temp-output").returncode == 0
    cubes = {name for name in before if name.startswith(("attention/", "time/"))}
    assert set(before) - set(workflow.results()) == cubes and cubes
    assert workflow.stale() == {}
    workflow.configure({"lags.permutations": 99})  # made from the cubes of a model
    assert workflow.stale().keys() >= {"capture_probes", "follow_periods", "test_lags"}
    workflow.configure({"lags.permutations": 999, "report.megabytes": 19})
    assert "capture_attention" in workflow.stale()
    workflow.configure({"report.megabytes": 20, "time.keep": True})
    run = workflow.snakemake("-R", "capture_attention", "--until", "reduce_to_time")
    assert run.returncode == 0, run.stdout
    cubes = [name for name in workflow.results() if name.startswith(("attention/", "time/"))]
    assert sorted(cubes) == ["time/each/wave.zarr.zip", "time/once/table.zarr.zip", "time/once/wave.zarr.zip"]
    assert {name: workflow.results()[name] for name in cubes} == {name: before[name] for name in cubes}


def test_every_series_of_a_panel_has_a_row(workflow: WorkflowCopy) -> None:
    run = workflow.snakemake("results/lags/once/table.series.csv")
    assert run.returncode == 0, run.stdout
    (row,) = csv.DictReader((workflow.root / "results/lags/once/table.series.csv").open())
    assert (row["series"], row["n_controls"], row["n_windows"], row["reason"]) == ("value", "19", "4", "")
    assert 0.05 <= float(row["p"]) <= 1 and row["part"] == "horizon->history"
    assert "1 series show" in (workflow.root / "logs/measure_series/once/table.log").read_text()


def test_the_report_is_one_archive_with_every_figure_and_asks_for_nothing_else(workflow: WorkflowCopy) -> None:
    run = workflow.snakemake("--report", "report.zip")
    assert run.returncode == 0, run.stdout
    with zipfile.ZipFile(workflow.root / "report.zip") as archive:
        names = archive.namelist()
        page = archive.read(next(name for name in names if name.endswith("report.html"))).decode()
    figures = list(workflow.root.glob("results/figures/**/*.png"))
    assert len([name for name in names if name.endswith(".png")]) == len(figures)
    assert any(name.endswith("explorer.html") for name in names)
    for category in ("0 Start here", "1 Verdicts", "2 Lags", "3 Comparisons", "4 Flow and attribution", "5 Models"):
        assert category in page, category
    assert not re.findall(r'(?:src|href)="https?://', page)


@pytest.mark.parametrize("change", [{"figures.gama": 1}, {"runs": [{"models": ["onec"], "signals": ["wave"]}]}])
def test_a_mistake_in_the_config_is_one_line(workflow: WorkflowCopy, change: dict[str, object]) -> None:
    workflow.configure(change)
    run = workflow.snakemake("-n")
    assert run.returncode == 1
    assert "Traceback" not in run.stdout
    lines = [line for line in run.stdout.splitlines() if line.startswith("config.yaml: ")]
    assert len(lines) == 1
    assert "did you mean" in lines[0]


def test_a_mistake_in_a_table_is_one_line_and_finished_results_stay(workflow: WorkflowCopy) -> None:
    before = workflow.results()
    workflow.edit("series.csv", "value\n", "value\nnot a number\n")
    run = workflow.snakemake()
    assert run.returncode == 1
    assert "Traceback" not in run.stdout
    assert len([line for line in run.stdout.splitlines() if line.startswith("make_signal: ")]) == 1
    assert "What is finished stays" in run.stdout
    kept = workflow.results()
    assert set(before) - set(kept) == {"signals/table.zarr.zip"}
    assert all(kept[name] == before[name] for name in kept)


def test_every_rule_is_complete_and_no_script_reads_the_config() -> None:
    for file in (REPOSITORY / "rules").glob("*.smk"):
        for rule in file.read_text().split("\nrule ")[1:]:
            name = rule.split(":")[0]
            for directive in ("output", "log", "benchmark", "conda", "threads", "resources", "params", "message"):
                assert re.search(rf"^    {directive}:", rule, re.MULTILINE), f"{name} has no {directive}"
            assert not re.search(r"^    (run|shell|retries):", rule, re.MULTILINE), name
            assert f'"../scripts/{name}.py"' in rule
            assert re.search(rf'code=(model_|fit_)?code\("{name}"\)', rule), name
    for script in (REPOSITORY / "scripts").glob("*.py"):
        text = script.read_text()
        assert "snakemake.config" not in text, script.name
        assert len(text.splitlines()) <= 40, script.name

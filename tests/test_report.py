"""The report stage without a browser: how arrays and modules get into the page, the summary, the end of a run."""

import base64
import json
import re
import zlib
from pathlib import Path

import explorer_study
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import time_tree

from laglens import launch
from laglens.errors import LaglensError
from laglens.report.bundle import bundle, page_sources
from laglens.report.explorer import as_json, explorer_page
from laglens.report.packing import ERRORS, LOWEST, Pack, decode_log8, encode
from laglens.report.paths import by_run
from laglens.report.pooling import pool, pool_edges, pooling
from laglens.report.run import explorer_run
from laglens.report.summary import FOLLOW, NEED, SHOW, Asked, summary_table
from laglens.report.summary_page import summary_page
from laglens.store import read_tree, write_table


def unpacked(pack: Pack, name: str) -> np.ndarray:
    """An array of a pack, put together as the page does it."""
    raw, entry = zlib.decompress(base64.b64decode(pack.text())), pack.index[name]
    kind = np.dtype({"float32": "<f4", "float16": "<f2", "log8": "u1"}[entry["code"]])
    size = int(np.prod(entry["shape"]))
    planes = np.frombuffer(raw, np.uint8, size * kind.itemsize, entry["at"])
    return planes.reshape(kind.itemsize, size).T.copy().view(kind).reshape(entry["shape"])


def test_packed_arrays_come_back() -> None:
    rng, pack = np.random.default_rng(0), Pack()
    numbers, maps = rng.normal(size=(3, 5)).astype("float32"), rng.random((2, 4, 4))
    pack.add("numbers", numbers)
    pack.add("maps", maps, "float16")
    pack.add("empty", np.zeros((0, 2)))
    assert np.array_equal(unpacked(pack, "numbers"), numbers)
    assert unpacked(pack, "maps") == pytest.approx(maps, rel=ERRORS["float16"])
    assert unpacked(pack, "empty").shape == (0, 2)
    with pytest.raises(ValueError, match="'maps'"):
        pack.add("maps", maps)


@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_eight_bits_keep_the_error_they_promise(weights: list[float]) -> None:
    values = np.array(weights)
    decoded = decode_log8(encode(values, "log8"))
    seen = values >= LOWEST
    assert decoded[seen] == pytest.approx(values[seen], rel=ERRORS["log8"] * 1.001)
    assert (decoded[~seen] <= LOWEST * 1.001).all()
    assert ERRORS["log8"] < 0.023


def test_pooling_keeps_the_largest_weight_and_the_borders() -> None:
    maps = np.zeros((1, 10, 7))
    maps[0, 9, 6] = 1
    assert (pooling(10, 4), pooling(7, 8)) == (3, 1)
    pooled = pool(maps, 3, 1)
    assert pooled.shape == (1, 4, 7)
    assert pooled[0, 3, 6] == 1 and pooled.sum() == 1
    assert pool_edges(np.arange(11.0) - 0.5, 3).tolist() == [-0.5, 2.5, 5.5, 8.5, 9.5]


def test_modules_become_one_script_in_the_order_they_need_each_other() -> None:
    modules = {
        "main": 'import { twice } from "./second.js";\nconst first = 1;\ntwice(first);\n',
        "second": 'import { first } from "./third.js";\nexport function twice(x) {\n  return first * x;\n}\n',
        "third": "export const first = 2;\n",
    }
    script = bundle(modules)
    assert [script.index(f"const {name}Module") for name in ("third", "second", "main")] == sorted(
        script.index(f"const {name}Module") for name in modules
    )
    assert "import" not in script and "export" not in script
    for broken, message in (
        ({"main": 'import { a } from "./gone.js";\n'}, "no module 'gone'"),
        ({"main": 'import { a } from "./main.js";\n'}, "in a circle: main -> main"),
        ({"main": "export default 1;\n"}, "cannot read 'export default 1;'"),
        ({"main": 'import * as all from "./third.js";\n', "third": ""}, "cannot read 'import"),
    ):
        with pytest.raises(LaglensError, match=re.escape(message)):
            bundle(broken)


def test_every_import_of_the_page_is_an_export() -> None:
    sources = page_sources()
    modules = {name: text for name, text in sources.items() if "." not in name}
    exported = {
        name: set(re.findall(r"^export .*?(?:function|const) +(\w+)", text, re.MULTILINE))
        for name, text in modules.items()
    }
    for name, text in modules.items():
        for names, source in re.findall(r"^import \{([^}]*)\} from \"\./(\w+)\.js\";$", text, re.MULTILINE):
            for one in filter(str.strip, names.split(",")):
                assert one.strip() in exported[source], f"{name}.js imports {one.strip()} from {source}.js"
                assert len(re.findall(rf"\b{one.strip()}\b", text)) > 1, f"{name}.js does not use {one.strip()}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, Path]]:
    return explorer_study.study(tmp_path_factory.mktemp("study"))


def test_the_same_study_is_the_same_page_and_asks_for_nothing(files) -> None:
    page = explorer_page(explorer_study.page_runs(files))
    assert page == explorer_page(explorer_study.page_runs(files))
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.replace('href="data:,"', ""))
    assert "<!-- " not in page
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2 + 2 * len(files)
    for content in (scripts[0], *scripts[1:-1:2]):
        assert "NaN" not in json.dumps(json.loads(content))


def test_a_text_that_ends_a_script_cannot() -> None:
    assert "</script" not in as_json({"signal": "</script><b>", "number": float("nan")})
    assert json.loads(as_json({"a": float("inf")})) == {"a": None}


def test_a_page_too_large_says_what_to_do(files, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = explorer_study.page_runs(files)
    with pytest.raises(LaglensError, match=r"report\.megabytes allows 0.001: raise it"):
        explorer_page(runs, megabytes=0.001)
    best, small = explorer_page(runs), explorer_page(runs, megabytes=len(explorer_page(runs)) / 1e6 - 0.001)
    kept = [re.findall(r'"encoder/attention":{"at":\d+,"code":"(\w+)"', page) for page in (best, small)]
    assert [set(codes) for codes in kept] == [{"float16"}, {"log8"}]
    bare = explorer_page(runs, megabytes=len(small) / 1e6 - 0.001)
    assert "encoder/vectors/query" in small and "encoder/vectors/query" not in bare
    assert '"too_large":true' in bare and '"code":"log8"' in bare
    with pytest.raises(LaglensError, match="no run"):
        explorer_page([])


def test_a_window_that_is_not_there_is_named(files) -> None:
    time, lags = (read_tree(path) for path in files["plain", "wave"])
    with pytest.raises(LaglensError, match=r"report\.window is 3, but plain saw 3 windows of wave \(0 to 2\)"):
        explorer_run(time, lags, model="plain", signal="wave", window=3)


def test_a_stack_without_profiles_is_shown_all_the_same(files) -> None:
    _, lags = (read_tree(path) for path in files["plain", "wave"])
    time = time_tree(samples=3, **explorer_study.OPTIONS | {"stacks": {"encoder": (0,), "decoder": (0,)}})
    run = explorer_run(time, lags, model="plain", signal="wave")
    assert [(stack["name"], bool(stack["parts"])) for stack in run.about["stacks"]] == [
        ("encoder", True),
        ("decoder", False),
    ]


def test_results_are_told_apart_by_folder_and_name() -> None:
    paths = ["results/lags/one/a-b.verdicts.csv", "results/lags/two/a-b.verdicts.csv"]
    assert by_run(paths) == {("one", "a-b"): paths[0], ("two", "a-b"): paths[1]}
    assert by_run(paths[0]) == {("one", "a-b"): paths[0]}


HOURS = {"time_step": 0.5, "time_unit": "hours"}


def judged(period: float, verdicts: list[str], period_of: str = "truth") -> pd.DataFrame:
    """Verdicts of as many heads, the first the strongest."""
    count = len(verdicts)
    return pd.DataFrame(
        {
            "stack": "encoder", "layer": 0, "head": range(count), "period": period, "verdict": verdicts,
            "reason": ["" if verdict == "supported" else f"because {i}" for i, verdict in enumerate(verdicts)],
            "contrast": np.arange(count, 0.0, -1), "p": 0.01, "p_family": np.linspace(0.02, 1, count),
            "period_of": period_of,
        }
    )  # fmt: skip


def cut(period: float, matters: str, effect: float = np.nan, measure: str | float = "error_change") -> pd.DataFrame:
    row = {
        "period": period,
        "cut": "comb",
        "measure": measure,
        "effect": effect,
        "control": 0.01,
        "lower": 0.1,
        "upper": 0.3,
    }
    reason = "too short a history" if matters == "not testable" else ""
    return pd.DataFrame([row | {"matters": matters, "head": "encoder L00 H01", "reason": reason}])


def test_the_summary_answers_each_question_once() -> None:
    yes, no, untestable = "supported", "not supported", "not testable"
    verdicts = pd.concat([judged(24, [yes, yes, no]), judged(10, [no, no, no]), judged(3, [untestable] * 3)])
    moved = cut(10, "no", 0.02, "forecast_change")
    unknown = cut(10, "no", np.nan)
    cuts = pd.concat([cut(24, "yes", 0.21), unknown, moved, cut(3, untestable, measure=np.nan).assign(cut=np.nan)])
    table = summary_table([Asked("m", "s", HOURS, verdicts, cuts)])
    follow = table[table["question"] == FOLLOW].set_index("period")
    assert follow["verdict"].to_dict() == {24: yes, 10: no, 3: untestable}
    assert follow["period_time"].to_dict() == {24: 12, 10: 5, 3: 1.5} and set(follow["time_unit"]) == {"hours"}
    assert follow["number"].fillna(-1).to_dict() == {24: 2, 10: 0, 3: -1}
    assert follow["unit"].unique().tolist() == ["of 3 heads"]
    assert follow["reason"].to_dict() == {24: "", 10: "because 0", 3: "because 0"}
    need = table[table["question"] == NEED].set_index("period")
    assert need["verdict"].to_dict() == {24: yes, 10: no, 3: untestable}
    assert need.loc[3, "reason"] == "too short a history"
    assert need.loc[24, ["number", "lower", "upper"]].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert need.loc[10, "number"] == pytest.approx(0.01) and "forecast moved" in need.loc[10, "unit"]


def test_a_grid_is_one_question_and_a_model_without_a_forecast_has_no_verdict() -> None:
    grid = pd.concat([judged(period, ["not supported"] * 2, "grid") for period in (8, 16, 32)])
    table = summary_table([Asked("m", "noise", HOURS, grid, cut(1, "no").iloc[:0]), Asked("vit", "photo", {})])
    assert table[["model", "verdict"]].values.tolist() == [["m", "not supported"], ["vit", "not testable"]]
    assert table["period_of"].tolist()[0] == "grid" and np.isnan(table["period"][0])
    page = summary_page(table)
    assert "heads follow any period of a grid" in page and "does not forecast" in page
    with pytest.raises(LaglensError, match="no run"):
        summary_table([])


def test_a_panel_says_how_many_of_its_series_show_a_lag() -> None:
    def asked(above: list[bool], reason: str = "") -> Asked:
        series = pd.DataFrame({"above": above, "lag": [7.0, 24.0, 24.0], "q": [0.01, 0.02, 0.3], "reason": reason})
        return Asked("m", "sites", HOURS, judged(5, ["supported"]), series=series)

    runs = [asked([True, True, True]), asked([False] * 3), asked([False] * 3, "no stack reads the history")]
    table = summary_table(runs)
    rows = table[table["question"] == SHOW]
    assert rows["verdict"].tolist() == ["supported", "not supported", "not testable"]
    assert rows["number"].fillna(-1).tolist() == [3, 0, -1] and set(rows["unit"]) == {"of 3 series"}
    assert rows["period"].fillna(-1).tolist() == [24, -1, -1]
    assert "smallest q is 0.01" in rows["reason"].iloc[1] and rows["reason"].iloc[2] == "no stack reads the history"
    page = summary_page(table)
    assert "series show a lag, most often 12 hours" in page and "3 of 3 series" in page and SHOW.capitalize() in page
    assert SHOW not in summary_page(summary_table([Asked("m", "one", HOURS, judged(5, ["supported"]))])).lower()


def test_a_run_begins_with_what_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = ["measure", "measure", "draw", "build", "all"]
    assert launch.plan(jobs) == "\n4 jobs to run; how long they take is known here once their rules have run."
    for name, seconds in (("measure/m/a", 10), ("measure/m/b", 30), ("measure/m/c", 500), ("build", 20)):
        path = Path("logs", f"{name}.tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t100\n")
    assert "4 jobs to run: about 80 seconds of work" in launch.plan(jobs)
    assert "and 1 job of rules that have not run yet" in launch.plan(jobs)
    assert "about 5 minutes" in launch.plan(["measure"] * 10)


def test_a_run_ends_with_its_verdicts_and_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verdicts = pd.concat([judged(24, ["supported"]), judged(10, ["supported"])])
    runs = [
        Asked("m", "both", HOURS, verdicts, cut(24, "no", 0.0)),
        Asked("m", "none", HOURS, judged(5, ["not testable"])),
    ]
    runs += [Asked("m", f"s{i}", HOURS, judged(5, ["not supported"])) for i in range(launch.LINES)]
    write_table(summary_table(runs), "results/summary.csv")
    Path("results/explorer.html").write_text("")
    said = launch.report(["results/figures/m/both/head_sheet.png"]).splitlines()
    assert re.fullmatch(r"  model +signal +heads follow the period +the forecast needs the period", said[1])
    assert re.fullmatch(r"  m +both +12, 5 hours +no", said[2])
    assert re.fullmatch(r"  m +none +not testable +–", said[3])
    assert "  and 2 more runs" in said
    assert "  open         results/explorer.html" in said
    assert said[-1].endswith("0 of 1 files of the study are in results/figures")

"""The report of a tuning study: whole and harmless whatever parameters are called, and true to its numbers."""

import base64
import math
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from pipeline.report import tune_page, tune_pictures
from pipeline.report.tune_page import write_tune
from pipeline.report.tune_study import STATES, mean_curve, ordered, running_best, scale_of, shown, window

VOID = {"meta", "img", "br"}
ALL = ["history", "importance", "slices", "parallel", "curves", "confirmed"]
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "x" * 300, "口罩", "a\nb", "$x^2$",
           ""]  # fmt: skip


class Reader(HTMLParser):
    """Checks that elements are closed; keeps the words of each cell, row by row, all tags, and what could fetch."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.fetched, self.words, self.tables = [], [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        links = [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.fetched += [link for link in links if not link.startswith(("#", "data:image/png;base64,"))]
        self.fetched += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def trial(number: int, state: str = "finished", score: float = 0.5, params: dict | None = None, **more) -> dict:
    done = {"finished": [4, 4, 4], "pruned": [4, 2], "failed": [1], "running": []}[state]
    folds = {str(i): [score - 0.2 / (epoch + 1) for epoch in range(n)] for i, n in enumerate(done)}
    return {
        "number": number, "state": state, "why": f"why {number}" if state == "failed" else "",
        "value": score if state == "finished" else None, "estimate": score if state == "pruned" else None,
        "params": {"train.lr": 10.0 ** -(1 + number % 4)} if params is None else params, "folds": folds,
        "epochs_run": sum(done), "epochs_planned": 12, "seconds": 3.5, "is_baseline": number == 0, "inherited": "", **more,
    }  # fmt: skip


def numeric(low: float = 1e-4, high: float = 0.1, log: bool = True, kind: str = "float", when: str = "") -> dict:
    return {"kind": kind, "low": low, "high": high, "log": log, "choices": [], "when": when}


def choice(*choices) -> dict:
    return {"kind": "choice", "low": None, "high": None, "log": False, "choices": list(choices), "when": ""}


def study(trials: list[dict], space: dict | None = None, greater: bool = True, **more) -> dict:
    return {
        "name": "digits-1a2b", "experiment": "digits", "metric": "macro_f1" if greater else "log_loss",
        "greater_is_better": greater, "n_folds": 3, "epochs": 4, "trials": trials,
        "space": {"train.lr": numeric()} if space is None else space, "importance": [], "confirmed": [], "verdict": [],
        "optimism": "", "totals": {"epochs_run": 30, "epochs_full": 120, "seconds": 60.0},
        "made": {"code_version": "abc", "command": "make tune"}, **more,
    }  # fmt: skip


def confirmed(number: int, changes: dict, difference: float | None = 0.03) -> dict:
    return {
        "number": number, "is_baseline": difference is None, "changes": changes, "study_value": 0.75, "fresh_value": 0.73,
        "difference": difference, "low": None if difference is None else -0.01, "high": None if difference is None else 0.05,
        "chosen": difference is not None,
    }  # fmt: skip


def large(n: int, n_params: int, names: list[str] | None = None, greater: bool = True) -> dict:
    """All states, all kinds of parameters, some of them conditional, and everything that a page can have."""
    rng = np.random.default_rng(0)
    names = names or [f"train.part{i}.setting_{i}" for i in range(n_params)]
    words = [names[0], "b", True, 3]
    kinds = [numeric(), choice(*words), numeric(0, 8, log=False, kind="int"), numeric(0.1, 0.9, when=f"{names[0]}=b")]
    space = {name: kinds[i % 4] for i, name in enumerate(names)}
    trials = []
    for i in range(n):
        values = [float(10 ** rng.uniform(-4, -1)), words[rng.integers(4)], int(rng.integers(9)), float(rng.random())]
        params = {name: values[j % 4] for j, name in enumerate(names) if j % 4 < 3 or rng.random() < 0.5}
        state = "finished" if i < 3 else str(rng.choice(STATES, p=[0.5, 0.4, 0.02, 0.08]))
        trials.append(trial(i, state, float(rng.normal(0.7, 0.05)), params, inherited=names[0] if i in (1, 2) else ""))
    share = [{"param": k, "share": 1 / (i + 2), "among": f"trials with {k}=1", "n": 9} for i, k in enumerate(names)]
    return study(
        trials, space, greater, importance=share, optimism=f"too good {names[0]}", verdict=[f"more than noise {names[0]}"],
        confirmed=[confirmed(0, {}, None), confirmed(1, trials[1]["params"])],
    )  # fmt: skip


def trial_rows(page: Reader) -> list[list[str]]:
    [table] = [table for table in page.tables if table[0][0] == "trial"]
    return table[1:]


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("names", [None, HOSTILE], ids=["plain", "hostile"])
def test_everything_is_written_embedded_and_harmless(names, greater, tmp_path):
    data = large(40, 8, names, greater)
    page, *pictures = write_tune(data, tmp_path / "new")  # warnings are errors
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert page.name == "tune.html" and [path.stem for path in pictures] == ALL
    assert set(page.parent.iterdir()) == {page, *pictures}
    assert reader.fetched == [] and "script" not in reader.tags and "://" not in text
    embedded = {base64.b64decode(each) for each in re.findall(r"data:image/png;base64,([\w+/=]+)", text)}
    assert embedded == {path.read_bytes() for path in pictures}
    for path in pictures:
        with Image.open(path) as image:
            assert image.format == "PNG" and 850 <= image.width <= 1000 and 200 <= image.height <= 2000, path.name
    words = "".join(reader.words)
    assert [name for name in data["space"] if name not in words] == []
    assert f"more than noise {next(iter(data['space']))}" in words and "{{" not in text.replace("{{ 7 * 7 }}", "")


def test_every_trial_is_in_the_table_once_in_its_place(tmp_path):
    data = large(60, 3)
    rows = trial_rows(Reader(write_tune(data, tmp_path)[0].read_text()))
    numbers = [int(row[0].split()[0]) for row in rows]
    assert sorted(numbers) == list(range(60))
    by_number = {each["number"]: each for each in data["trials"]}
    states = [by_number[number]["state"] for number in numbers]
    assert [row[1].startswith(state) for row, state in zip(rows, states, strict=True)] == [True] * 60
    assert states == sorted(states, key=STATES.index)
    for number, row, state in zip(numbers, rows, states, strict=True):
        each = by_number[number]
        worth = {"finished": each["value"], "pruned": each["estimate"]}.get(state)
        assert row[2] == ("none" if worth is None else f"{worth:.4f}" + "estimate" * (state == "pruned"))
        assert row[-1] == each["why"] and ("from train" in row[1]) == bool(each["inherited"])
        assert row[6:-1] == [shown(each["params"][name]) if name in each["params"] else "" for name in data["space"]]
    scores = [by_number[number]["value"] for number, state in zip(numbers, states, strict=True) if state == "finished"]
    assert scores == sorted(scores, reverse=True)


def test_where_less_is_better_the_best_is_the_lowest():
    scores = [0.9, 0.8, 0.4, 0.1, 0.6]
    trials = [trial(i, {1: "failed", 3: "pruned"}.get(i, "finished"), score) for i, score in enumerate(scores)]
    assert running_best(trials, False).tolist() == [0.9, 0.9, 0.4, 0.4, 0.4]
    assert running_best(trials, True).tolist() == [0.9] * 5
    assert [each["number"] for each in ordered(study(trials, greater=False))] == [2, 4, 0, 3, 1]
    assert [each["number"] for each in ordered(study(trials))] == [0, 4, 2, 3, 1]
    assert np.isnan(running_best([trial(1, "failed"), *trials], False)[0])


@pytest.fixture
def figures(monkeypatch) -> dict:
    """The figures that pictures would write, by name, to look into."""
    kept = {}
    monkeypatch.setattr(tune_pictures, "save", lambda figure, path: kept.update({path.stem: figure}))
    yield kept
    plt.close("all")


@pytest.mark.parametrize("greater", [True, False])
def test_failed_trials_stand_at_the_bottom_edge_and_leave_the_axes_alone(greater, figures, tmp_path):
    good = [trial(i, score=0.5 + 0.01 * i) for i in range(6)]
    bad = [trial(6, "failed", 1e9), trial(7, "running"), trial(8, "failed", math.nan)]
    limits = []
    for trials in (good, good + bad):
        tune_pictures.draw(study(trials, greater=greater), tmp_path)
        axes = figures["history"].axes[0]
        limits.append(axes.get_ylim())
    assert limits[0] == limits[1]
    [failed] = [each for each in axes.collections if str(each.get_label()).startswith("failed")]
    assert np.asarray(failed.get_offsets()).tolist() == [[6, limits[0][0]], [8, limits[0][0]]]
    [step] = [line for line in axes.lines if line.get_label() == "best so far"]
    assert np.asarray(step.get_ydata())[-1] == (0.55 if greater else 0.5)
    assert [each.get_label().split(":")[0] for each in axes.collections] == ["finished", "running", "failed"]


def test_kinds_of_trials_differ_in_shape_not_only_in_colour():
    assert len({marker for marker, _, _ in tune_pictures.MARKS.values()}) == len(STATES) + 1  # and the inherited


def test_a_curve_is_the_mean_of_the_folds_that_got_there():
    folds = {"3": [0.2, 0.4, 0.6], "0": [0.4, 0.5], "1": [0.6]}
    assert mean_curve({"folds": folds}).tolist() == pytest.approx([0.4, 0.45, 0.6])
    assert np.isnan(mean_curve({"folds": {"0": [None, 0.5], "1": [0.1, math.inf]}})).all()
    assert mean_curve({"folds": {}}).size == mean_curve({"folds": {"0": []}}).size == 0


def test_a_cross_is_where_the_last_fold_was_stopped(figures, tmp_path):
    tune_pictures.draw(study([trial(0), trial(1, "pruned", 0.3), trial(2)]), tmp_path)
    lines = figures["curves"].axes[0].lines
    assert [list(line.get_xdata()) for line in lines if line.get_label() == "pruned here"] == [[2]]


def test_a_parameter_that_a_trial_does_not_have_is_drawn_apart(figures, tmp_path):
    space = {"a": numeric(0, 1, log=False), "b": numeric(0, 1, log=False, when="a=1")}
    trials = [trial(i, score=0.5 + i / 100, params={"a": i / 3} | ({"b": i / 3} if i else {})) for i in range(4)]
    tune_pictures.draw(study(trials, space), tmp_path)
    axes = figures["parallel"].axes[0]
    lines = {tuple(np.asarray(line.get_xdata())[:2]) for line in axes.lines if len(np.asarray(line.get_xdata())) == 3}
    assert {(0, True), (1 / 3, False), (2 / 3, False), (1, False)} == {(a, b < 0) for a, b in lines}
    assert [b for a, b in lines if a > 0] == [a for a, b in lines if a > 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "macro_f1"]


def test_a_far_worse_score_is_left_outside_and_counted(figures, tmp_path):
    trials = [trial(i, score=1 + 0.01 * i) for i in range(12)] + [trial(12, score=400.0)]
    tune_pictures.draw(study(trials, greater=False), tmp_path)
    [axes] = figures["history"].axes
    assert axes.get_ylim()[1] < 2 and "1 far worse" in axes.get_title(loc="left")
    low, high = window(study(trials), np.array([each["value"] for each in trials]))  # the best is never left outside
    assert low < 1 and high > 400
    assert window(study([]), np.array([math.nan])) == (0, 1)


def test_places_on_a_log_line_and_beside_each_other():
    scale = scale_of(numeric(1e-4, 1e-2), [1e-3])
    assert [scale.place(v, 0) for v in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert scale_of(numeric(0.37, 0.37, log=False), [0.37]).ticks(4) == [(0.5, "0.37")]
    assert [text for _, text in scale.ticks(4)] == ["0.0001", "0.001", "0.01"]
    assert scale_of(numeric(1e-4, 1e-2), [1.0]).place(1.0, 0) == 1  # an older study's range was wider
    kinds = scale_of(choice("a", True), ["a", True, "older"])
    places = np.array([[kinds.place(value, number) for number in range(300)] for value in ("a", True, "older")])
    assert ((places > [[0], [1 / 3], [2 / 3]]) & (places < [[1 / 3], [2 / 3], [1]])).all()
    assert len(np.unique(places.round(9))) == 900 and [text for _, text in kinds.ticks(4)] == ["a", "true", "older"]
    assert scale_of(numeric(), ["off", 0.1]).choices == ("off", "0.1")


def test_one_trial_and_none_of_the_rest(tmp_path):
    for each in (trial(0), trial(0, "failed"), trial(0, "pruned"), trial(0, "running")):
        paths = write_tune(study([each]), tmp_path)
        reader = Reader(paths[0].read_text())
        assert [path.name for path in paths] == ["tune.html"] and "img" not in reader.tags
        assert len(trial_rows(reader)) == 1 and "Pictures" not in reader.words


@pytest.mark.parametrize("n", [2, 3])
def test_few_trials_and_no_baseline(n, tmp_path):
    trials = [trial(i, score=0.5, is_baseline=False, params={"train.lr": 0.003}) for i in range(n)]  # all alike
    assert [path.stem for path in write_tune(study(trials), tmp_path)] == ["tune", "history", "slices", "curves"]
    assert len(write_tune(study([trial(i, "failed") for i in range(n)]), tmp_path)) == 2  # curves until they failed


def test_300_trials_of_15_parameters_are_drawn_in_reasonable_time(tmp_path):
    start = time.process_time()
    page, *pictures = write_tune(large(300, 15), tmp_path)
    assert time.process_time() - start < 40 and page.stat().st_size < 4_000_000
    assert len(pictures) == 6 and len(trial_rows(Reader(page.read_text()))) == 300


def test_the_chosen_setting_is_told_with_what_it_changes(tmp_path):
    trials = [trial(0, params={"train.lr": 0.001}), trial(12, score=0.75, params={"train.lr": 0.003})]
    again = [confirmed(0, {}, None), confirmed(12, {"train.lr": 0.003})]
    data = study(trials, confirmed=again, optimism="0.02 too good")
    reader = Reader(write_tune(data, tmp_path)[0].read_text())
    base, chosen = reader.tables[0][1:]
    assert base[0] == "baseline" and base[1:4] == ["none", "0.7500", "0.7300"]
    assert chosen == ["trial 12chosen", "train.lr: 0.003 was 0.001", "0.7500", "0.7300", "+0.0300[-0.0100, +0.0500]"]
    words = "".join(reader.words)
    assert "0.02 too good" in words and "90 75 % of 120" in words


def test_the_page_is_in_order_and_readable():
    page = tune_page.render(large(12, 4), dict.fromkeys(ALL, b""))
    levels = [int(tag[1]) for tag in Reader(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert all('alt="' in tag for tag in re.findall("<img[^>]*>", page))
    assert 'lang="en"' in page and "width=device-width" in page and "prefers-color-scheme: dark" in page
    places = [page.index(f'id="{name}"') for name in ("chosen", "mattered", "pictures", "trials", "space", "totals")]
    assert places == sorted(places) and page.index('class="verdict"') < places[0]


def test_durations_and_values_are_short():
    assert [tune_page.duration(s) for s in (0.4, 89, 90, 3599, 11_100)] == [
        "0 s",
        "89 s",
        "2 min",
        "1 h 00 min",
        "3 h 05 min",
    ]
    assert [shown(v) for v in (True, None, 0.000123456, 7, "a")] == ["true", "null", "0.0001235", "7", "a"]

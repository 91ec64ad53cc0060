"""The command line: help at once, every verb in it, bad input with exit status 2 and nothing written."""

import subprocess
import sys
import time

import pytest

from pipeline.__main__ import VERBS
from pipeline.config.settings import ROOT


def test_help_names_every_verb_and_answers_at_once():
    times = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
    assert min(times) < 0.3


def test_a_stage_with_nothing_to_do_imports_nothing_heavy():
    script = "import sys, pipeline.stages; print([m for m in ('torch', 'pandas', 'numpy', 'sklearn', 'timm', 'mlflow', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def checkout(make_checkout):
    return make_checkout("cli")


def test_a_typo_in_the_settings_stops_before_anything_is_written(checkout):
    before = sorted(checkout.root.rglob("*"))
    done = checkout.pipeline("submit", "experiments/digits.yaml", "train.epohcs=3", "train.lr=fast", expect=2)
    assert "train.epohcs (SET): unknown key, did you mean 'epochs'?" in done.stderr
    assert "train.lr (SET): found 'fast'" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert [path for path in sorted(checkout.root.rglob("*")) if "__pycache__" not in path.parts] == before


def test_an_experiment_that_is_not_there_names_the_nearest(checkout):
    done = checkout.pipeline("train", "experiments/digit.yaml", expect=2)
    assert "did you mean 'digits.yaml'" in done.stderr


def test_a_folder_that_is_not_there_is_one_mistake_that_names_podium_data(checkout):
    done = checkout.pipeline("eda", "experiments/mask.yaml", "competition.root=data/nowhere", expect=2)
    assert done.stderr.count("there is no folder") == 1 and "PODIUM_DATA=FOLDER" in done.stderr
    assert "train.csv" not in done.stderr and "Traceback" not in done.stderr


def test_bad_data_is_told_all_at_once_before_training_and_leaves_no_result(checkout, write_csv):
    """Missing and unreadable images, a duplicate id, a label in no class, k too large, other sample ids, a wrong model."""
    from PIL import Image

    root = checkout.root / "data" / "bad"
    (root / "images").mkdir(parents=True)
    names = [f"i{n}" for n in range(12)]
    for name in [*names, "t0", "t1"]:
        Image.new("L", (8, 8), 100).save(root / "images" / f"{name}.png")
    (root / "images" / "i3.png").unlink()
    (root / "images" / "i4.png").write_text("not an image")
    rows = [(name, "cat" if n < 9 else "dog") for n, name in enumerate(names)]
    write_csv(root / "train.csv", ["image_id", "label"], [*rows, ("i0", "cat"), ("i5b", "cow")])
    write_csv(root / "test.csv", ["image_id"], [["t0"], ["t1"]])
    write_csv(root / "sample_submission.csv", ["image_id", "label"], [["t0", "cat"], ["t2", "cat"]])
    (checkout.root / "experiments" / "bad.yaml").write_text(
        "competition: {source: csv, name: bad, root: data/bad, test_csv: test.csv, classes: [cat, dog]}\n"
        "images: {mode: L, px: 32}\nmodel: {name: test_resnte}\nfolds: {k: 5}\n"
    )
    _, errors = checkout.main("submit", "experiments/bad.yaml", expect=2)
    for place, part in [
        ("data/bad/train.csv:5", "'i3' is missing"),
        ("data/bad/train.csv:6", "'i4' is unreadable"),
        ("data/bad/train.csv:14", "duplicate id 'i0', first in data/bad/train.csv:2"),
        ("data/bad/train.csv:15", "label 'cow' is no class"),
        ("data/bad/test.csv:3", "'t1' is not in the sample"),
        ("data/bad/sample_submission.csv:3", "'t2' is not in the test table"),
        ("folds.k", "'dog' (3)"),
        ("model.name", "did you mean 'test_resnet"),
    ]:
        assert any(place in line and part in line for line in errors.splitlines()), (place, part, errors)
    assert not (checkout.runs / "bad").exists() and not (checkout.runs / "mlflow.db").exists()


def test_two_commands_on_one_experiment_do_not_work_against_each_other(checkout):
    import fcntl

    with (checkout.runs / ".digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = checkout.pipeline("folds", "experiments/digits.yaml", expect=2)
    assert "another command is at work on digits" in done.stderr


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(name):
    """As nohup and the background of a shell script leave it."""
    code = (
        "import signal; from pipeline.__main__ import main; main(['eda', 'none.yaml']); "
        f"signal.raise_signal(signal.{name}); print('alive')"
    )
    for ignored in (True, False):
        start = f"import signal; signal.signal(signal.{name}, signal.SIG_{'IGN' if ignored else 'DFL'}); "
        child = f"import os, sys; {start}os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, cwd=ROOT, check=False)
        assert ("alive" in done.stdout) == ignored, done.stderr

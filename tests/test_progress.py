"""What the terminal shows: a line a fold where nothing can be redrawn, a live display where it can."""

import io
import re

import pytest
from rich.console import Console

import pipeline.progress as room
from pipeline.progress import ImageProgress, Steps, TrainingProgress
from pipeline.records import EpochRecord


def record(fold: int, epoch: int, **changes) -> EpochRecord:
    values = {"fold": fold, "n_folds": 2, "seed": 7, "epoch": epoch, "epochs": 3, "train_loss": 0.5, "valid_loss": 0.25,
              "score": 0.75, "lr": 1e-3, "grad_norm": 1.0, "images_per_s": 1234.0, "seconds": 1.0,
              "is_last": epoch == 3}  # fmt: skip
    return EpochRecord(**(values | changes))


@pytest.fixture
def shown(monkeypatch):
    """What was written, and whether to a terminal."""
    out = io.StringIO()

    def use(terminal: bool) -> io.StringIO:
        def console(file=None, **options):
            return Console(file=out, force_terminal=terminal, width=200, **options)

        monkeypatch.setattr(room, "Console", console)
        return out

    return use


def test_plain_lines_one_a_fold_and_one_for_each_long_epoch(shown):
    out = shown(terminal=False)
    with TrainingProgress(2, 3, "macro_f1") as progress:
        for fold in (0, 1):
            for epoch in (1, 2, 3):
                progress.on_step(epoch, 50)
                progress(record(fold, epoch, seconds=60.0 if (fold, epoch) == (1, 2) else 1.0))
    lines = out.getvalue().splitlines()
    assert [re.findall(r"fold (.)/2  epoch (.)/3", line) for line in lines] == [
        [("1", "3")],
        [("2", "2")],
        [("2", "3")],
    ]
    assert "macro_f1 0.7500" in lines[0] and "1,234 images/s" in lines[0] and "seed" not in lines[0]


def test_seeds_are_named_where_there_are_several(shown):
    out = shown(terminal=False)
    with TrainingProgress(4, 3, "macro_f1") as progress:
        progress(record(0, 3))
    assert "fold 1/2 seed 7" in out.getvalue()


def test_a_fold_that_stops_early_has_its_line(shown):
    out = shown(terminal=False)
    with TrainingProgress(2, 3, "macro_f1") as progress:
        progress(record(0, 2, is_last=True))
    assert "epoch 2/3" in out.getvalue()


def test_a_live_display_has_the_time_left_of_fold_and_run(shown):
    out = shown(terminal=True)
    with TrainingProgress(2, 3, "macro_f1") as progress:
        progress(record(0, 3))
        progress.on_step(1, 50)
        progress(record(1, 1))
        progress._bars.refresh()
        run = progress._bars.tasks[1]
        assert run.completed == 400 and run.total == 600  # three epochs of the first fold, one of the second
        assert progress._bars.tasks[0].completed == 100
    assert "fold 2/2" in out.getvalue() and "left" in out.getvalue()


def test_decoding_says_how_many_and_how_fast(shown):
    out = shown(terminal=False)
    with ImageProgress(10) as progress:
        progress(4)
        progress(6)
    assert re.match(r"images  10 decoded in [\d.]+ s \([\d,]+ images/s\)\n", out.getvalue())


def test_steps_are_live_on_a_terminal_and_silent_elsewhere(shown):
    out = shown(terminal=False)
    with Steps("eda") as step:
        step("looking")
    assert out.getvalue() == ""
    out = shown(terminal=True)
    with Steps("eda") as step:
        step("looking")
        step._status._live.refresh()
    assert "looking ..." in out.getvalue()

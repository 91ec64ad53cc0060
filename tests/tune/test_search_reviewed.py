"""What a review of the search broke, each with the smallest case of it."""

import json

import pytest
import yaml

from pipeline.config.load import differences, load
from pipeline.config.mistakes import Stopped
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.tuning import Tune
from pipeline.tune.driver import why_failed
from pipeline.tune.pool import Message
from pipeline.tune.prune import Trial
from pipeline.tune.space import Axis, Space, searched
from pipeline.tune.store import open_storage
from pipeline.tune.study import About, Study

DIGITS = ROOT / "experiments/digits.yaml"
LOSSES = [{"train.loss.name": name} for name in ("cross_entropy", "focal", "bce", "logit_adjustment")]
SCHEDULES = [{"train.schedule.name": name} for name in ("cosine", "step", "onecycle", "plateau")]
OVERRIDES = [
    (), ("train.loss.label_smoothing=0.2",), ("train.schedule.warmup_epochs=1",), ("train.loss={name: focal, gamma: 1}",),
    ("train.schedule={name: step, step_size: 3}",), ("augment.preset=strong", "train.lr=1e-3"),
    ("train.class_weights={name: inverse}",),
]  # fmt: skip


@pytest.mark.parametrize("overrides", OVERRIDES, ids=str)
@pytest.mark.parametrize("changes", [*LOSSES, *SCHEDULES], ids=str)
def test_a_tuned_file_means_the_trial_whatever_was_overridden(tmp_path, overrides, changes):
    meant = load(DIGITS, overrides, changes)[0]
    (tmp_path / "tuned.yaml").write_text(
        yaml.safe_dump({"base": str(DIGITS), **differences(DIGITS, overrides, changes)})
    )
    assert searched(load(tmp_path / "tuned.yaml")[0]) == searched(meant)


@pytest.fixture
def study(tmp_path):
    base = Experiment.model_validate({"competition": {"source": "digits"}})

    def build(changes):
        return Experiment.model_validate(
            {"competition": {"source": "digits"}, "train": {"lr": changes.get("train.lr", 1e-3)}}
        )

    def opened() -> Study:
        space = Space([Axis("train.lr", "train.lr", "float", 1e-4, 1e-2, log=True)], base, build)
        storage = open_storage("journal", tmp_path / "tune.journal")
        return Study(storage, space, About("s", "c", 1, (0, 1), "me"), Tune())

    return opened


def asked(study: Study) -> Trial:
    found = study.ask()
    assert found is not None
    return found


def test_a_baseline_that_failed_is_tried_again(study):
    first = asked(study())
    again = study()
    again.fail(again.trials[0], "the disk was full")
    assert first.is_baseline and asked(study()).is_baseline


def test_half_a_line_of_the_journal_is_cut_off(study, tmp_path):
    asked(study())
    journal = tmp_path / "tune.journal"
    whole = journal.read_bytes()
    for _ in range(2):
        with journal.open("ab") as file:
            file.write(b'{"op_code": 8, "worker_id": "x", "tri')
        found = study()
        assert len(found.trials) == 1
        found.note("written", "after it")
        assert study().noted()["written"] == "after it" and journal.read_bytes().startswith(whole)


def test_a_dead_drivers_lock_is_no_reason_to_wait(study, tmp_path):
    asked(study())
    (tmp_path / "tune.journal.lock").symlink_to(tmp_path / "tune.journal")
    assert len(study().trials) == 1


def test_a_password_in_the_stores_url_is_written_nowhere():
    settings = load(DIGITS, ["tune.storage=postgresql://me:secret@host/db"])[0]
    assert settings.tune.storage.endswith("me:secret@host/db")
    assert "secret" not in json.dumps(settings.model_dump(mode="json")) and "secret" not in str(settings.flat())


def test_the_recorded_search_is_that_of_the_committed_experiment():
    """benchmarks/results/2026-11-24-tune.md names the file; the search was run by these overrides."""
    overrides = ["images.px=32", "images.mean=[0.5,0.5,0.5]", "images.std=[0.5,0.5,0.5]",
                 "model={name: test_resnet, pretrained: false, drop_rate: 0.0}"]  # fmt: skip
    folder = ROOT / "experiments"
    assert load(folder / "facemask3.yaml", overrides)[0] == load(folder / "facemask3-small.yaml")[0]


@pytest.mark.parametrize(("kind", "is_its_fault"), [("TrainingDiverged", True), ("Stopped", True), ("OSError", False),
                                                    ("Mistakes", False), ("KeyError", False)])  # fmt: skip
def test_a_full_disk_is_no_trials_fault(kind, is_its_fault):
    message = Message(0, "failed", {"trial": 3, "fold": 1}, (kind, "what happened"))
    if is_its_fault:
        assert why_failed(message) == "what happened"
    else:
        with pytest.raises(Stopped, match=r"trial 3, fold 1.*what happened.*not given up"):
            why_failed(message)

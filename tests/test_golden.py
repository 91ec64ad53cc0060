"""The losses of twenty steps, recipe by recipe, as they were when they were last looked at.

A change of numbers here is a change of what training does to the weights: record anew only in a commit that says why
(`.venv/bin/python tests/test_golden.py`).
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.augment import image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.settings import Experiment
from pipeline.precision import Precision
from pipeline.records import FoldRun
from pipeline.resume import ResumeState
from pipeline.task import Task
from pipeline.train import TrainingData, train_fold

FILE = Path(__file__).parent / "golden/losses.json"
STEPS = 20
RECIPES = {
    "plain": {},
    "sgd, step, accumulated": {
        "train": {"optimizer": {"name": "sgd"}, "lr": 0.05, "schedule": {"name": "step", "step_size": 5},
                  "batch_size": 8, "accumulation": 4},
    },
    "strong, mixed, focal, weighted": {
        "augment": {"preset": "strong", "mixup": 0.3, "cutmix": 1.0},
        "train": {"loss": {"name": "focal"}, "class_weights": {"name": "inverse"}, "select": "ema"},
    },
    "one cycle, balanced, smoothed, layers": {
        "train": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}, "schedule": {"name": "onecycle"},
                  "sampler": {"name": "balanced"}, "layer_decay": 0.8, "head_lr_ratio": 5.0},
    },
}  # fmt: skip


def losses(recipe: dict) -> list[float]:
    """One step an epoch, so that the epoch's loss is the step's."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (32, 32, 32, 3)).astype(np.uint8))
    targets = torch.from_numpy(np.arange(32) ** 2 % 5 % 3)  # unequal classes
    ids = [f"x{i:02d}" for i in range(32)]
    spec = Preprocessing(mode="RGB", px=32, crop=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    data = TrainingData(images, lambda row: images[row].numpy(), targets, targets, np.array(ids), image_keys(ids),
                        Task("class", "softmax", ("a", "b", "c")), "macro_f1", spec)  # fmt: skip
    train = {"epochs": STEPS, "batch_size": 32, "lr": 3e-3, **recipe.get("train", {})}
    sections = {"competition": {"source": "digits"}, "model": {"name": "test_resnet"}, **recipe, "train": train}
    settings, rows = Experiment.model_validate(sections), np.arange(32)
    with tempfile.TemporaryDirectory() as folder:
        state = ResumeState(Path(folder) / "state", {})
        which = FoldRun(0, 1, 0)
        trained = train_fold(data, rows, rows, which, settings, Precision(), torch.device("cpu"), state, lambda _: None)
    return [record.train_loss for record in trained.history]


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_lose_what_they_lost(name):
    expected = json.loads(FILE.read_text())[name]
    got = losses(RECIPES[name])
    # processors round differently, and steps carry that on: tight at first, looser later
    assert got[:5] == pytest.approx(expected[:5], rel=1e-4)
    assert got == pytest.approx(expected, rel=2e-2)


def test_the_recorded_recipes_are_these_and_they_differ():
    recorded = json.loads(FILE.read_text())
    assert list(recorded) == list(RECIPES)
    assert len({tuple(values) for values in recorded.values()}) == len(RECIPES)
    assert all(len(values) == STEPS for values in recorded.values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(
        json.dumps({name: [round(x, 7) for x in losses(recipe)] for name, recipe in RECIPES.items()}, indent=1)
    )
    print(f"recorded {FILE}", file=sys.stderr)

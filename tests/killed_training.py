"""Trains a tiny competition in processes that are killed at random moments: `killed_training.py FOLDER N`.

Run by `test_kills`. torch is imported once; each training is a forked process of its own, which SIGKILL ends without
any chance to tidy up. Prints one line of JSON: how long an undisturbed training takes, and for each kill the moment,
what it found on the disk, and whether the training that was gone on with ended in the same bytes.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.augment import image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.settings import Experiment
from pipeline.crossval import cross_validate
from pipeline.precision import Precision
from pipeline.task import Task
from pipeline.train import TrainingData

N = 32
SPEC = Preprocessing(mode="RGB", px=32, crop=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
SETTINGS = {
    "competition": {"source": "digits"},
    "model": {"name": "test_resnet", "drop_rate": 0.2},
    "augment": {"preset": "strong", "mixup": 0.2, "cutmix": 1.0},
    "train": {
        "epochs": 3, "batch_size": 4, "accumulation": 2, "select": "ema",
        "optimizer": {"name": "adamw"}, "schedule": {"name": "plateau", "patience": 0},
        "sampler": {"name": "balanced"},
    },
}  # fmt: skip


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (N, 32, 32, 3)).astype(np.uint8))
    targets = torch.from_numpy(np.arange(N) % 3)
    ids = [f"x{i:02d}" for i in range(N)]
    data = TrainingData(images, lambda row: images[row].numpy(), targets, targets, np.array(ids), image_keys(ids),
                        Task("class", "softmax", ("a", "b", "c")), "macro_f1", SPEC)  # fmt: skip
    folds = pd.DataFrame({"image_id": ids, "fold": np.arange(N) // 3 % 2, "label": "?", "group": ""})
    settings = Experiment.model_validate(SETTINGS)
    cross_validate(data, folds, settings, Precision(), {"settings": "s"}, "", folder, lambda record: None)


def started(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            train(folder)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def finished(folder: Path) -> dict[str, str]:
    """Hash of each checkpoint and of the out-of-fold table; nothing else may be left."""
    pid = started(folder)
    assert os.waitpid(pid, 0)[1] == 0
    names = {path.name for path in folder.iterdir()}
    assert not [name for name in names if "state" in name or name.endswith(".tmp")], names
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".parquet")
    }


def main(root: Path, n: int) -> None:
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports what every child would else import anew
    pd.DataFrame({"a": [1]}).to_parquet(root / "a.parquet")
    expected = finished(root / "whole")
    before = time.perf_counter()
    assert finished(root / "again") == expected
    seconds = time.perf_counter() - before
    moments = np.random.default_rng(0)
    kills = []
    while len(kills) < n:
        folder = root / f"killed-{len(kills)}"
        pid = started(folder)
        at = moments.uniform(0, seconds)
        time.sleep(at)
        os.kill(pid, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):  # it was done: the machine is faster than it was before
            shutil.rmtree(folder)
            seconds *= 0.95
            continue
        found = sorted(path.suffix for path in folder.iterdir()) if folder.is_dir() else []
        same = finished(folder) == expected
        kills.append({"at": round(at, 3), "found": found, "same": same})
        shutil.rmtree(folder)
    print(json.dumps({"seconds": round(seconds, 3), "n_files": len(expected), "kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

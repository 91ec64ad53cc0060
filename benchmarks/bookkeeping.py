"""What an epoch's bookkeeping costs: the state on the disk, and one batch of metrics to MLflow.

    .venv/bin/python benchmarks/bookkeeping.py [MODEL ...]

Prints milliseconds an epoch, median of 9, and their share of an epoch of 30 s. Writes to a temporary folder.
"""

import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from pipeline.config.settings import Experiment
from pipeline.config.training import Model
from pipeline.model import build_model, head_parameters
from pipeline.optim import build_optimizer
from pipeline.records import EpochRecord
from pipeline.resume import ResumeState
from pipeline.tracking.runs import Tracker
from pipeline.tracking.system import SystemSampler


def median_ms(call) -> float:
    times = []
    for _ in range(9):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def main(names: list[str], scratch: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
    tracker = Tracker("bookkeeping")
    run_id = tracker.start("fold-0", {})
    names_of = ("train_loss", "valid_loss", "valid_macro_f1", "valid_accuracy", "lr", "lr_body", "lr_head", "grad_norm",
                "images_per_s", "seconds", "memory_mb")  # fmt: skip
    metrics = dict.fromkeys(names_of, 0.5)
    with SystemSampler() as sampler:
        to_mlflow = median_ms(lambda: tracker.metrics(run_id, metrics | sampler.take(), step=1))
    for name in names:
        model = build_model(Model(name=name), 18, "RGB")
        settings = Experiment.model_validate({"competition": {"source": "digits"}})
        optimizer = build_optimizer(model, head_parameters(model), settings.train)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # fills the moments
        history = [EpochRecord(0, 5, 0, 1, 9, 0.1, 0.1, 0.5, 1e-3, 1.0, 100.0, 30.0)]
        state = ResumeState(Path(scratch) / f"{name}.state", {})
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        save = median_ms(partial(state.save, history, model, optimizer, scaler, None))
        size = state.path.stat().st_size / 1e6
        share = (save + to_mlflow) / 30_000
        print(
            f"{name}: state of {size:,.0f} MB {save:.0f} ms, MLflow {to_mlflow:.0f} ms: {share:.2%} of an epoch of 30 s"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1:] or ["test_resnet", "tf_efficientnet_lite0", "resnet50"], folder)

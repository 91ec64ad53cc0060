"""A fold's model as ONNX, which needs neither torch nor our code: one file a fold, and one that says how to use them.

In: checkpoints and some images. Out: a folder with `fold-K.onnx` and `model.json`. A model takes `images`, (N, px, px,
channels) uint8 as the preprocessing in `model.json` makes them, and gives `outputs`, (N, n_outputs) float32: the
normalisation and the step from logits to probabilities are inside, so that nothing is left to agree by hand. The
ensemble is the mean of the folds' outputs. The folder is whole or absent, and only left where ONNX Runtime answers as
torch does.
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.augment import Normalise
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Stopped
from pipeline.model import load_checkpoint
from pipeline.predict import predict
from pipeline.receipts import sha256
from pipeline.task import Task

TOLERANCE = 1e-4  # of probabilities; of a regression's numbers, in standard deviations of the training targets
OPSET = 20


class Whole(torch.nn.Module):
    """(N, px, px, C) uint8 to (N, n_outputs) float32: what `predict` does, in one module."""

    def __init__(self, model: torch.nn.Module, task: Task, spec: Preprocessing):
        super().__init__()
        self.model, self.task = model, task
        self.normalise = Normalise(spec, torch.device("cpu"), channels_last=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.task.outputs(self.model(self.normalise(images)))


def export(
    checkpoints: Sequence[Path],
    images: torch.Tensor,
    folder: Path,
    about: Mapping[str, Any],
    tell: Callable[[str], None],
) -> float:
    """Fills `folder` and returns the largest difference from torch. images: (N, px, px, C) uint8, N at least 3.

    about: further entries of `model.json`. Raises `Stopped` where a model cannot be exported or differs by more than
    `TOLERANCE`; `folder` is then as it was.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    worst, files, said = 0.0, {}, dict[str, Any](about)
    try:
        scratch.mkdir(parents=True)
        for checkpoint in checkpoints:
            model, info = load_checkpoint(checkpoint, torch.device("cpu"))
            file = scratch / f"{checkpoint.stem}.onnx"
            _write(Whole(model.to(memory_format=torch.contiguous_format), info.task, info.preprocessing), images, file)
            scale = info.task.std if info.task.kind == "regression" else 1.0
            expected = predict(model, info.task, images, info.preprocessing, torch.device("cpu"))
            difference = largest_difference(file, images.numpy(), expected) / scale
            if not difference <= TOLERANCE:  # not a number is no agreement either
                raise Stopped(f"{file.name} differs from torch by {difference:.1e} (limit {TOLERANCE:.0e})")
            tell(f"{file.name} of {file.stat().st_size / 1e6:,.1f} MB differs from torch by {difference:.1e} at most")
            worst = max(worst, difference)
            files[file.name] = {"sha256": sha256(file), "weight": 1 / len(checkpoints), "fold": info.fold,
                                "seed": info.seed, "hashes": info.hashes, "task": asdict(info.task)}  # fmt: skip
            said |= {"preprocessing": info.preprocessing.model_dump(mode="json"), "model": info.model,
                     "kind": info.task.kind, "link": info.task.link, "classes": info.task.classes}  # fmt: skip
        said |= {"inside": "normalisation and link: uint8 pixels in, outputs out", "difference": worst, "files": files}
        (scratch / "model.json").write_text(json.dumps(said, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return worst


def _write(whole: Whole, images: torch.Tensor, file: Path) -> None:
    from torch.onnx.errors import OnnxExporterError

    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's own, of torch's and onnxscript's insides
            torch.onnx.export(
                whole.eval(), (images[:2],), str(file), dynamo=True, opset_version=OPSET, external_data=False,
                input_names=["images"], output_names=["outputs"], verbose=False,
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )  # fmt: skip
    except (OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Stopped(f"{file.name} cannot be exported: {reason}") from error
    finally:
        quiet.setLevel(level)


def largest_difference(file: Path, images: np.ndarray, expected: np.ndarray) -> float:
    """Of ONNX Runtime's outputs from `expected`, for all images at once and for one alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        several, one = (session.run(["outputs"], {"images": part})[0] for part in (images, images[:1]))
    except Exception as error:  # its kinds have no common parent
        raise Stopped(f"{file.name} cannot be run by ONNX Runtime: {str(error).strip().splitlines()[0]}") from error
    return float(max(np.abs(several - expected).max(), np.abs(one - expected[:1]).max()))

"""Models as ONNX: they answer as torch does for every kind of target, or nothing is left."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline import export as room
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Stopped
from pipeline.config.training import Model
from pipeline.model import CheckpointInfo, build_model, load_checkpoint, save_checkpoint
from pipeline.predict import predict
from pipeline.task import Task

SPEC = Preprocessing(mode="RGB", px=32, crop=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
FOUR = ("a", "b", "c", "d")
IMAGES = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def checkpoint(folder, task: Task):
    torch.manual_seed(0)
    model = build_model(Model(name="test_resnet"), task.n_logits, SPEC.mode)
    torch.nn.init.normal_(model.get_classifier().weight, std=2.0)  # else all outputs are alike
    path = folder / "fold-0.safetensors"
    save_checkpoint(path, model, CheckpointInfo("test_resnet", task, SPEC, 0, 0, 1, "fp32", True, {}, "code"))
    return path


@pytest.mark.parametrize(
    "task",
    [
        Task("class", "softmax", FOUR),
        Task("class", "one_vs_all", FOUR),
        Task("multilabel", "sigmoid", FOUR),
        Task("ordinal", "corn", FOUR),
        Task("class", "parts", FOUR, parts=((0, 0, 1, 1), (0, 1, 0, 1))),
        Task("regression", "number", FOUR, mean=100.0, std=30.0),
    ],
    ids=lambda task: task.link,
)
def test_every_kind_of_target_answers_as_torch_does(tmp_path, task):
    path = checkpoint(tmp_path, task)
    room.export([path], IMAGES, tmp_path / "export", {"separator": " "}, lambda text: None)
    model, info = load_checkpoint(path, torch.device("cpu"))
    expected = predict(model, info.task, IMAGES, SPEC, torch.device("cpu"))
    session = onnxruntime.InferenceSession(str(tmp_path / "export/fold-0.onnx"), providers=["CPUExecutionProvider"])
    for part in (slice(0, 5), slice(2, 3)):  # any number of images
        [got] = session.run(["outputs"], {"images": IMAGES[part].numpy()})
        assert got.shape == expected[part].shape and np.abs(got - expected[part]).max() <= 1e-4 * task.std
    assert expected.std(axis=0).max() > 1e-3
    said = json.loads((tmp_path / "export/model.json").read_text())
    assert (said["kind"], said["link"], said["classes"]) == (task.kind, task.link, list(FOUR))
    assert said["preprocessing"] == SPEC.model_dump(mode="json") and list(said["files"]) == ["fold-0.onnx"]


def test_a_model_that_answers_otherwise_leaves_what_was_there(tmp_path, monkeypatch):
    path, old = checkpoint(tmp_path, Task("class", "softmax", FOUR)), tmp_path / "export/model.json"
    old.parent.mkdir()
    old.write_text("of an earlier export")
    monkeypatch.setattr(room, "predict", lambda *arguments: predict(*arguments) + np.float32(3e-4))
    with pytest.raises(Stopped, match="differs from torch by 3"):
        room.export([path], IMAGES, old.parent, {}, lambda text: None)
    assert old.read_text() == "of an earlier export"
    seals = {entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".sha256")}
    assert {entry.name for entry in tmp_path.iterdir()} - seals == {"export", "fold-0.safetensors"}

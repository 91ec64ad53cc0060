"""Checkpoints carry all that inference needs, are whole or absent, and are not believed when they are not ours."""

import json

import pytest
import safetensors.torch
import timm
import torch

from pipeline.config.data import Images, Preprocessing
from pipeline.config.mistakes import Mistakes, Stopped
from pipeline.config.settings import Experiment, Model
from pipeline.model import (
    CheckpointInfo,
    build_model,
    check_model,
    checkpoint_info,
    load_checkpoint,
    preprocessing,
    save_checkpoint,
)

SPEC = Preprocessing(mode="L", px=32, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.25,))
INFO = CheckpointInfo(
    model="test_resnet",
    classes=("a", "b"),
    preprocessing=SPEC,
    fold=3,
    epochs=7,
    hashes={"settings": "s", "folds": "f", "images": "i"},
    code="abc",
)


def test_a_checkpoint_gives_back_the_model_and_what_it_was(tmp_path):
    model = build_model(Model(name="test_resnet", drop_rate=0.3), 2, "L")
    save_checkpoint(tmp_path / "fold-3.safetensors", model, INFO)
    again, info = load_checkpoint(tmp_path / "fold-3.safetensors", torch.device("cpu"))
    assert info == INFO
    assert not again.training
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(model.eval()(x), again(x))
    assert [path.name for path in tmp_path.iterdir()] == ["fold-3.safetensors"]
    (tmp_path / "any").touch()
    assert (tmp_path / "fold-3.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode  # the team can read it


def test_a_failure_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "fold.safetensors"
    model = build_model(Model(name="test_resnet"), 2, "L")
    save_checkpoint(path, model, INFO)
    before = path.read_bytes()

    def fail(weights, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, model, INFO)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_checkpoints_of_ours_are_refused(tmp_path):
    (tmp_path / "noise").write_bytes(b"\x80\x04pickle")
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "bare")
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "other", {"podium": json.dumps({"format": "later"})})
    for name in ("noise", "bare", "other", "absent"):
        with pytest.raises(Mistakes, match=name):
            checkpoint_info(tmp_path / name)


def test_preprocessing_is_the_models_own_where_settings_say_so():
    # 0.5, not ImageNet's mean: the usual pair would lose points without a word
    name = "tf_efficientnet_lite0.in1k"
    spec = preprocessing(Images(), Model(name=name))
    expected = timm.get_pretrained_cfg(name)
    assert spec.mean == tuple(expected.mean) == (0.5, 0.5, 0.5) and spec.std == tuple(expected.std)
    assert (spec.px, spec.crop, spec.interpolation) == (
        expected.input_size[-1],
        expected.crop_pct,
        expected.interpolation,
    )
    mine = preprocessing(Images(px=96, crop=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3)), Model(name=name))
    assert (mine.px, mine.crop, mine.interpolation, mine.mean) == (96, 0.9, "bilinear", (0.1, 0.2, 0.3))
    grey = preprocessing(Images(mode="L"), Model(name="resnet18"))
    assert len(grey.mean) == len(grey.std) == 1 and grey.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_an_unknown_architecture_is_told_with_the_nearest():
    [mistake] = check_model(settings(name="resnet81"), 2)
    assert "model.name" in str(mistake) and "did you mean 'resnet" in str(mistake)
    assert check_model(settings(name="test_resnet"), 2) == []


@pytest.mark.parametrize(
    ("model", "train", "part"),
    [
        ({"name": "test_resnet"}, {"batch_size": 1}, "more than 1 value per channel"),
        ({"name": "vit_tiny_patch16_224"}, {}, "height"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, {}, "drop_path_rate"),
        ({"name": "test_resnet"}, {"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_would_stop_the_first_step_is_told_before_any_work(model, train, part):
    [mistake] = check_model(settings(train, **model), 10)
    assert part in str(mistake)


def test_weights_that_cannot_be_downloaded_stop_with_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("pipeline.model.timm.create_model", offline)
    with pytest.raises(Stopped, match=r"model\.pretrained=false"):
        build_model(Model(name="resnet18", pretrained=True), 2, "RGB")


def settings(train=None, **model) -> Experiment:
    sections = {"images": {"mode": "L", "px": 32}, "model": model, "train": train or {}}
    return Experiment.model_validate({"competition": {"source": "digits"}, **sections})

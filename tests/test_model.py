"""Checkpoints carry all that inference needs, are whole or absent, and are not believed when they are not ours."""

import io
import json
import time

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from pipeline import model_checks as room
from pipeline.config.data import Images, Preprocessing
from pipeline.config.mistakes import Mistakes, Stopped
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.training import Model
from pipeline.model import (
    CheckpointInfo,
    build_model,
    checkpoint_info,
    load_checkpoint,
    preprocessing,
    save_checkpoint,
)
from pipeline.model_checks import check_model, check_pretrained
from pipeline.task import Task

SPEC = Preprocessing(mode="L", px=32, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.25,))
INFO = CheckpointInfo(
    model="test_resnet",
    task=Task("class", "parts", ("a", "b"), parts=((0, 1),)),
    preprocessing=SPEC,
    fold=3,
    seed=5,
    epochs=7,
    precision="bf16",
    channels_last=True,
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
    model = model.to(memory_format=torch.channels_last)
    assert torch.equal(model.eval()(x), again(x))
    assert {path.name for path in tmp_path.iterdir()} == {"fold-3.safetensors", ".fold-3.safetensors.sha256"}
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
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, f".{path.name}.sha256"}  # nothing half-written


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


# --- pretrained weights without a hub ------------------------------------------------------------------------------

SHARED = ROOT.parent / "shared/weights/tf_efficientnet_lite0.in1k.safetensors"


@pytest.fixture
def weights(tmp_path):
    """A file of pretrained weights for `test_resnet`, as timm's own are: with a head of 1,000 classes."""
    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=1000)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path, model


def test_weights_of_a_file_are_taken_all_but_the_head(weights):
    path, source = weights
    model = build_model(Model(name="test_resnet", weights=str(path)), 7, "RGB")
    states = source.state_dict(), model.state_dict()
    head = model.default_cfg["classifier"]
    for name, tensor in states[0].items():
        if not name.startswith(f"{head}."):
            assert torch.equal(tensor, states[1][name]), name
    assert states[1][f"{head}.weight"].shape[0] == 7
    grey = build_model(Model(name="test_resnet", weights=str(path)), 7, "L")
    first = model.default_cfg["first_conv"]
    assert torch.allclose(
        grey.get_submodule(first).weight, source.get_submodule(first).weight.sum(1, keepdim=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none.safetensors", None, "there is no file"),
        ("w.bin", b"\x80\x04pickle", "does not fit"),
        ("w.safetensors", b"garbage", "does not fit"),
    ],
)
def test_weights_that_are_none_are_told_before_any_work(experiment, tmp_path, name, content, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    settings = experiment(model={"name": "test_resnet", "weights": str(tmp_path / name)})
    [mistake] = check_model(settings, 2)
    assert mistake.where == "model.weights" and part in mistake.found and "safetensors" in mistake.valid


def test_weights_of_another_model_are_told(experiment, weights):
    [mistake] = check_model(experiment(model={"name": "test_vit", "weights": str(weights[0])}, images={"px": 160}), 2)
    assert "lacks" in mistake.found and "of the model's tensors" in mistake.found
    assert check_model(experiment(model={"name": "test_resnet", "weights": str(weights[0])}), 2) == []


def test_without_a_network_pretrained_fails_at_once_with_what_to_do(experiment, monkeypatch):
    settings = experiment(model={"name": "resnet18", "pretrained": True}, images={"px": 64})
    [mistake] = check_model(settings, 2)  # the tests run with HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" in mistake.found and "model.weights=FILE" in mistake.valid
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    started = time.monotonic()
    [mistake] = check_model(settings, 2)
    assert "cannot be reached" in mistake.found and time.monotonic() - started < 20


def test_a_hub_that_answers_and_weights_that_are_here_are_let_through(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(room.urllib.request, "urlopen", lambda request, timeout: io.BytesIO(b""))
    assert check_pretrained("resnet18") == []
    monkeypatch.setattr(room.urllib.request, "urlopen", lambda request, timeout: pytest.fail("asked"))
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repository, name: "/somewhere/model.safetensors"
    )
    assert check_pretrained("resnet18") == []


def test_the_models_own_preprocessing_is_taken():
    spec = preprocessing(Images(), Model(name="tf_efficientnet_lite0"))
    assert (spec.mean, spec.std, spec.px, spec.crop, spec.interpolation) == (
        (0.5,) * 3,
        (0.5,) * 3,
        224,
        0.875,
        "bicubic",
    )


@pytest.mark.skipif(not SHARED.is_file(), reason="needs the weights in ../shared/weights, not part of the repository")
def test_imagenets_usual_mean_and_std_would_answer_otherwise():
    """On EfficientNet-Lite0 they lose points silently; its own configuration says 0.5."""
    network = timm.create_model(
        "tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay={"file": str(SHARED)}
    ).eval()
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        own = network((pixels - 0.5) / 0.5)
        usual = network(
            (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
            / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        )
    assert (own.softmax(1) - usual.softmax(1)).abs().max() > 0.01
    model = Model(name="tf_efficientnet_lite0", weights=str(SHARED))
    mine = build_model(model, 18, "RGB").eval()
    with torch.inference_mode():
        assert torch.allclose(
            mine.forward_features((pixels - 0.5) / 0.5), network.forward_features((pixels - 0.5) / 0.5), atol=1e-5
        )


def test_a_compiler_that_does_not_work_is_told_before_training(monkeypatch, experiment):
    [mistake] = check_model(experiment(model={"name": "test_resnet"}, train={"compile": "inductr"}), 2)
    assert "did you mean 'inductor'?" in str(mistake)

    def broken(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    [mistake] = check_model(experiment(model={"name": "test_resnet"}, train={"compile": "inductor"}), 2)
    assert "No working C++ compiler" in str(mistake)


def test_optimizers_and_their_options_are_judged_before_training(experiment):
    def told(**train) -> str:
        return " ".join(map(str, check_model(experiment(model={"name": "test_resnet"}, train=train), 2)))

    assert told(optimizer={"name": "lion"}) == "" == told(optimizer={"name": "sgd", "options": {"momentum": 0.8}})
    assert "did you mean 'adamw'?" in told(optimizer={"name": "adamww"})
    assert "betaz" in told(optimizer={"name": "adamw", "options": {"betaz": [0.9, 0.99]}})


@pytest.mark.parametrize("old", ["tf_efficientnet_b0_ap", "convnext_tiny_in22k", "vit_base_patch16_224_in21k"])
def test_an_old_name_is_prepared_as_timms_present_name_says(old):
    now = timm.models.get_deprecated_models()[old]
    theirs = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(now).to_dict())
    mine = preprocessing(Images(), Model(name=old))
    assert (mine.mean, mine.std, mine.crop) == (theirs["mean"], theirs["std"], theirs["crop_pct"])
    assert mine.px == theirs["input_size"][1] and mine.interpolation == theirs["interpolation"]
    assert mine == preprocessing(Images(), Model(name=now))


@pytest.mark.parametrize(
    ("name", "valid"),
    [("resnet18.none_such", "resnet18.a1_in1k"), ("vit_base_patch32_224_sam", "vit_base_patch32_224.sam_in1k")],
)
def test_a_name_without_a_configuration_is_refused_and_nothing_is_assumed(experiment, name, valid):
    settings = experiment(model={"name": name})
    [mistake] = check_model(settings, 2)
    assert mistake.where == "model.name" and repr(name) in str(mistake) and valid in str(mistake)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "test_resnet"])
def test_a_single_output_starts_at_the_mean_and_learns(name):
    """timm draws it from -1 to 1 in some families, which starts a regression 5 standard deviations off."""
    torch.manual_seed(0)
    model = build_model(Model(name=name), 1, "RGB").train()
    images = torch.randn(4, 3, 64, 64)
    assert (model(images) == 0).all()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (model(images)[:, 0] - torch.tensor([-1.0, 0, 1, 2])).square().mean().backward()
        optimizer.step()
    gradients = [parameter.grad.abs().sum() for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(model.parameters())) and all(gradient > 0 for gradient in gradients[-2:])
    first = next(model.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0  # the whole network learns from the second step on
    assert any(
        (parameter != 0).any() for parameter in build_model(Model(name=name), 2, "RGB").get_classifier().parameters()
    )

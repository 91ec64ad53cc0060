"""The measured choice of precision and memory layout."""

import json

import pytest
import torch

import pipeline.precision as room
from pipeline.config.settings import Experiment
from pipeline.precision import Precision, choose

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(room, "SECONDS", 0.0)


def settings(**train) -> Experiment:
    train = {"batch_size": 4, **train}
    return Experiment.model_validate(
        {"competition": {"source": "digits"}, "model": {"name": "test_resnet"}, "train": train}
    )


def test_what_the_settings_say_is_not_measured(tmp_path):
    chosen, measured = choose(settings(precision="bf16", channels_last=False), 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert chosen == Precision("bf16", False) and measured == [] and list(tmp_path.iterdir()) == []


def test_auto_tries_each_candidate_once_and_the_choice_is_kept(tmp_path):
    auto = settings(precision="auto", channels_last="auto")
    chosen, measured = choose(auto, 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert {str(m.precision) for m in measured} == {
        "fp32, channels last", "fp32, channels first", "bf16, channels last", "bf16, channels first",
    }  # fmt: skip
    assert chosen in [m.precision for m in measured]
    again, measured = choose(auto, 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert again == chosen and measured == []
    _, measured = choose(auto, 3, "RGB", 64, CPU, tmp_path / "c.json")
    assert measured  # another input size is another question
    assert len(json.loads((tmp_path / "c.json").read_text())) == 2


@pytest.mark.parametrize(("bf16_s", "loss", "expected"), [(0.5, 1.0, "bf16"), (0.99, 1.0, "fp32"), (0.1, 2.0, "fp32")])
def test_the_fastest_is_taken_if_it_is_clearly_faster_and_computes_the_same(
    monkeypatch, tmp_path, bf16_s, loss, expected
):
    def timed(model, images, targets, precision, device):
        return (1.0, 1.0) if precision.name == "fp32" else (bf16_s, loss)

    monkeypatch.setattr(room, "_step_time", timed)
    chosen, measured = choose(settings(precision="auto"), 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert chosen.name == expected
    assert ("its loss is 2.000, not 1.000" in [m.note for m in measured]) == (loss == 2.0)


def test_gradients_that_are_no_numbers_are_not_taken(monkeypatch, tmp_path):
    original = room.build_model

    def spoilt(*args):
        model = original(*args)
        first = next(model.parameters())
        first.register_hook(lambda grad: grad * float("nan"))
        return model

    calls = []
    monkeypatch.setattr(
        room, "build_model", lambda *args: calls.append(1) or (spoilt if len(calls) > 1 else original)(*args)
    )
    chosen, measured = choose(settings(precision="auto"), 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert chosen.name == "fp32" and measured[1].note.startswith("its loss is nan")


def test_what_a_device_cannot_do_is_left_out_with_its_reason(monkeypatch, tmp_path):
    def timed(model, images, targets, precision, device):
        if precision.name != "fp32":
            raise RuntimeError("not implemented for 'BFloat16'\nmore")
        return 1.0, 1.0

    monkeypatch.setattr(room, "_step_time", timed)
    chosen, measured = choose(settings(precision="auto"), 3, "RGB", 32, CPU, tmp_path / "c.json")
    assert chosen.name == "fp32" and "not implemented for 'BFloat16'" in [m.note for m in measured]

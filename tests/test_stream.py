"""Rows through many models part by part: bit for bit what a plain loop over whole arrays gives, and read just once."""

from collections import Counter
from itertools import pairwise
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from pipeline.config.data import Preprocessing
from pipeline.model import CheckpointInfo
from pipeline.predict import batch_size_for, predict
from pipeline.stream import Part, part_size, stream
from pipeline.task import Task
from pipeline.views import PLAIN, Place, views_of

CPU = torch.device("cpu")
SIDE = 16
# normalisation that leaves the bytes as they are: what follows is then sums of whole numbers, exact in any order
SPEC = Preprocessing(mode="L", px=SIDE, crop=1.0, interpolation="bicubic", mean=(0.0,), std=(1 / 255,))
CLASSES = ("a", "b", "c")


class Exact(torch.nn.Module):
    """Logits are whole numbers over 1,024, so no batch and no order of summing moves a bit."""

    def __init__(self, number: int):
        super().__init__()
        self.number, self.seen = number, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        places = torch.arange(images[0].numel(), dtype=torch.float32)
        weights = torch.stack([(places * (c + 2 + self.number)) % 7 - 3 for c in range(len(CLASSES))])
        return images.flatten(1) @ weights.T / 1024


def models_of(n: int, kind: str = "class") -> dict[int, tuple[torch.nn.Module, CheckpointInfo]]:
    task = Task(kind, "sigmoid" if kind == "multilabel" else "softmax", CLASSES)
    info = CheckpointInfo("exact", task, SPEC, 0, 0, 1, "float32", False, {}, "test")
    return {number: (Exact(number), info) for number in range(n)}


def loader(images: np.ndarray, calls: list | None = None):
    """(start, stop, place) -> those rows, other pixels at each place."""

    def load(start: int, stop: int, place: Place) -> np.ndarray:
        if calls is not None:
            calls.append((start, stop, place))
        px = place.spec(SPEC).px
        corner = images[start:stop, int(4 * place.x) :, int(4 * place.y) :]
        return np.ascontiguousarray(corner[:, :px, :px])

    return load


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 24, 24, 1)).astype(np.uint8)


def naive(model, info, images: np.ndarray, views, average: str) -> np.ndarray:
    """All rows at once, view by view."""
    load, total = loader(images), 0.0
    for view in views:
        own = torch.from_numpy(load(0, len(images), view.place))
        outputs = predict(model, info.task, own, view.place.spec(SPEC), CPU, view)
        if len(views) == 1:
            return outputs
        logs = np.log(outputs.astype(np.float64).clip(np.finfo(np.float32).tiny))
        total = total + (logs if average == "logits" else outputs.astype(np.float64)) / len(views)
    if average == "logits":
        powers = np.exp(total - total.max(axis=1, keepdims=True))
        total = powers / powers.sum(axis=1, keepdims=True)
    return total.astype(np.float32)


@given(
    st.lists(st.integers(1, 36), unique=True, max_size=5),
    st.sampled_from([(), ("flip",), ("dihedral",), ("multi_crop",), ("flip", "multi_scale")]),
    st.sampled_from(["probs", "logits", "ranks", "vote"]),
    st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_parts_the_outputs_are_those_of_whole_arrays_bit_for_bit(cuts, names, average, n_models):
    images, views, models = pictures(37), views_of(names), models_of(n_models)
    edges = [0, *sorted(cuts), 37]
    parts = [Part(a, b, tuple(models)) for a, b in pairwise(edges)]
    found: dict[int, list[np.ndarray]] = {number: [] for number in models}
    for part, outputs in stream(models, loader(images), parts, views, average, CPU):
        assert list(outputs) == list(part.models)
        for number, of_model in outputs.items():
            assert of_model.shape == (part.stop - part.start, 3) and of_model.dtype == np.float32
            found[number].append(of_model)
    for number, (model, info) in models.items():
        assert np.array_equal(np.concatenate(found[number]), naive(model, info, images, views, average))


def test_a_convolution_gives_the_same_bits_in_parts_of_whole_batches(monkeypatch):
    monkeypatch.setattr("pipeline.predict.batch_size_for", lambda px, device: 8)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    model(torch.zeros(1, 1, SIDE, SIDE))
    info, images = models_of(1)[0][1], pictures(45)
    whole = naive(model, info, images, views_of(["dihedral"]), "probs")
    parts = [Part(a, b, (0,)) for a, b in ((0, 16), (16, 40), (40, 45))]
    found = [
        out[0] for _, out in stream({0: (model, info)}, loader(images), parts, views_of(["dihedral"]), "probs", CPU)
    ]
    assert np.array_equal(np.concatenate(found), whole)
    for px in (32, 224):
        assert part_size(px, CPU) % batch_size_for(px, CPU) == 0
        assert part_size(px, torch.device("cuda")) % batch_size_for(px, torch.device("cuda")) == 0


@pytest.mark.parametrize("n_models", [1, 4])
def test_each_part_is_loaded_once_a_place_however_many_models_see_it(n_models):
    images, views, models, calls, advanced = pictures(20), views_of(["flip", "multi_crop"]), models_of(n_models), [], []
    parts = [Part(0, 8, tuple(models)), Part(8, 16, tuple(models)), Part(16, 20, tuple(models))]
    for _ in stream(models, loader(images, calls), parts, views, "probs", CPU, advanced.append):
        pass
    wanted = [(part.start, part.stop, view.place) for part in parts for view in views]
    assert Counter(calls) == Counter(set(wanted)) and len(calls) == 3 * 5
    assert sum(advanced) == 20 * 10 * n_models  # images times views times models
    assert [model.seen for model, _ in models.values()] == [20 * 10] * n_models


def test_a_part_is_seen_by_the_models_that_it_names_alone():
    images, models = pictures(12), models_of(3)
    parts = [Part(0, 4, (2,)), Part(4, 8, (0, 1)), Part(8, 12, (1,))]
    found = [
        (part, outputs) for part, outputs in stream(models, loader(images), parts, views_of(["flip"]), "probs", CPU)
    ]
    assert [part for part, _ in found] == parts
    assert [model.seen for model, _ in models.values()] == [4 * 2, 8 * 2, 4 * 2]  # images times views
    for part, outputs in found:
        assert set(outputs) == set(part.models)
        for number, of_model in outputs.items():
            whole = naive(*models[number], images, views_of(["flip"]), "probs")
            assert np.array_equal(of_model, whole[part.start : part.stop])


def test_views_are_averaged_as_probabilities_or_as_logits_worked_by_hand():
    """One lit pixel, in the first row at column 1 and, mirrored, at 14: numpy's softmax does the rest."""
    images = np.zeros((1, 24, 24, 1), np.uint8)
    images[0, 2, 3] = 255  # the middle square begins at (2, 2)
    models = models_of(1)
    logits = [[255 * ((column * (c + 2)) % 7 - 3) / 1024 for c in range(3)] for column in (1, SIDE - 2)]
    expected = {"probs": softmax(logits, axis=1).mean(axis=0), "logits": softmax(np.mean(logits, axis=0))}
    for average, wanted in expected.items():
        [(_, outputs)] = stream(models, loader(images), [Part(0, 1, (0,))], views_of(["flip"]), average, CPU)
        assert np.allclose(outputs[0], wanted, atol=1e-6)
    assert np.abs(expected["probs"] - expected["logits"]).max() > 1e-4


def test_one_view_is_passed_on_as_the_model_gives_it():
    images, models = pictures(6), models_of(1, "multilabel")
    for average in ("probs", "logits", "ranks", "vote"):
        [(_, outputs)] = stream(models, loader(images), [Part(0, 6, (0,))], [PLAIN], average, CPU)
        own = torch.from_numpy(loader(images)(0, 6, PLAIN.place))
        assert np.array_equal(outputs[0], predict(*[models[0][0], models[0][1].task], own, SPEC, CPU))


def test_the_next_part_is_loaded_while_this_one_is_predicted():
    """Each waits for the other: nothing would go on if one had to end before the other begins."""
    images, loading, predicting = pictures(8), Event(), Event()
    load = loader(images)

    def noticed(start: int, stop: int, place: Place) -> np.ndarray:
        if start == 4:
            loading.set()
            assert predicting.wait(5), "the first part was not predicted while the second was loaded"
        return load(start, stop, place)

    class Waits(Exact):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            predicting.set()
            assert loading.wait(5), "the second part was not asked for while the first was predicted"
            return super().forward(batch)

    models = {0: (Waits(0), models_of(1)[0][1])}
    assert len(list(stream(models, noticed, [Part(0, 4, (0,)), Part(4, 8, (0,))], [PLAIN], "probs", CPU))) == 2


def test_what_cannot_be_loaded_is_told_where_the_outputs_are_awaited_and_the_parts_before_it_are_kept():
    images = pictures(12)

    def load(start: int, stop: int, place: Place) -> np.ndarray:
        if start == 8:
            raise ValueError("no whole image")
        return loader(images)(start, stop, place)

    parts, kept = [Part(a, a + 4, (0,)) for a in (0, 4, 8)], []
    with pytest.raises(ValueError, match="no whole image"):
        for part, outputs in stream(models_of(1), load, parts, [PLAIN], "probs", CPU):
            kept.append((part, len(outputs[0])))
    assert kept == [(parts[0], 4), (parts[1], 4)]


def test_without_parts_nothing_is_loaded():
    calls = []
    assert list(stream(models_of(1), loader(pictures(1), calls), [], [PLAIN], "probs", CPU)) == [] == calls

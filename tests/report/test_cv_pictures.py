"""Pictures of out-of-fold rows: drawn without a warning, as wide as they are shown, whatever is in the names."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from PIL import Image, ImageFont
from scipy.stats import binomtest

from pipeline.report import cv_pictures
from pipeline.report.cv_pictures import (
    attention,
    drawable,
    label_errors,
    mistakes,
    per_class,
    reliability,
    wilson,
    wrap,
)
from pipeline.report.pictures import _lines, curves
from pipeline.review import calibration, per_class_table

HOSTILE = ["$x^2$", "a" * 200, "b\nc", "😀", "口罩 mask", "", "<b>", "\x00", "word " * 40]
FONT = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)


def picture(path) -> np.ndarray:
    """(h, w, 3) of a file that is as wide as MLflow shows it."""
    with Image.open(path) as image:
        assert 600 <= image.width <= 960 and image.height >= 40, image.size
        return np.asarray(image.convert("RGB")).astype(int)


def fake(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, n_classes, n)
    z = rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[targets]
    return targets, np.exp(2 * z) / np.exp(2 * z).sum(axis=1, keepdims=True)


def thumbnails(n: int) -> list[np.ndarray]:
    rng, shapes = np.random.default_rng(0), [(8, 8, 1), (112, 40, 3), (30, 112, 3), (1, 112, 1)]
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in itertools.islice(itertools.cycle(shapes), n)]


@pytest.mark.parametrize(("n", "n_classes"), [(0, 2), (1, 2), (300, 18), (12_000, 200)])
def test_calibration_and_classes_are_drawn_at_any_size(n, n_classes, tmp_path):
    targets, probs = fake(n, n_classes)
    reliability(*calibration(targets, probs), tmp_path / "r.png")  # warnings are errors
    picture(tmp_path / "r.png")
    if n:
        per_class(per_class_table(targets, probs, [f"class {i}" for i in range(n_classes)]), tmp_path / "c.png")
        picture(tmp_path / "c.png")


def test_hostile_class_names_and_empty_classes_are_drawn(tmp_path):
    n = len(HOSTILE)
    values = np.where(np.arange(n) % 2, np.nan, 0.5)
    table = pd.DataFrame({"class": HOSTILE, "precision": values, "recall": 1.0, "f1": values, "support": 10**6})
    per_class(table, tmp_path / "c.png")
    picture(tmp_path / "c.png")


def test_the_interval_is_wilsons():
    for k, n in ((0, 4), (3, 7), (50, 50)):
        low, high = wilson(np.array([k / n]), np.array([n]))
        expect = binomtest(k, n).proportion_ci(method="wilson")
        assert [low[0], high[0]] == pytest.approx([expect.low, expect.high], abs=1e-4)


@pytest.mark.parametrize("n", [0, 1, 7, 30])
def test_grids_hold_hostile_names_and_any_number(n, tmp_path):
    names = list(itertools.islice(itertools.cycle(HOSTILE), n))
    mistakes(thumbnails(n), names, names, [0.5] * n, names, tmp_path / "m.png")
    label_errors(thumbnails(n), names, names, [1e-9] * n, names, tmp_path / "l.png")
    heats = np.zeros((n, 32, 32))
    attention(np.zeros((n, 32, 32, 1), np.uint8), heats, names, names, tmp_path / "a.png")
    for name in ("m", "l", "a"):
        drawn = picture(tmp_path / f"{name}.png")
        assert (drawn[:, -4:] == 255).all() and (drawn[-2:] == 255).all(), "something reaches the edge"


def test_of_numbers_the_grid_says_error(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(cv_pictures, "grid", lambda _images, captions, title, _path: said.append((captions, title)))
    mistakes(thumbnails(1), ["31"], ["9.5"], [21.5], ["a"], tmp_path / "m.png", measure="error")
    [([lines], title)] = said
    assert [what + text for what, text, _ in lines] == [
        "true: 9.5",
        "said: 31",
        "error 21.5",
        "a",
    ] and "errors" in title


@pytest.mark.parametrize(
    "text", ["", "short", "two words that are longer than a cell", "x" * 300, "a " + "y" * 300, "W" * 90]
)
def test_a_caption_fits_its_cell_and_keeps_its_beginning(text):
    lines = wrap(text, FONT, 142)
    assert 1 <= len(lines) <= 2 and all(FONT.getlength(line) <= 142 for line in lines)
    kept = " ".join(lines).removesuffix("…").replace(" ", "")
    assert text.replace(" ", "").startswith(kept) and (kept == text.replace(" ", "") or lines[-1].endswith("…"))


def test_letters_that_cannot_be_drawn_become_boxes():
    assert drawable("a$\n😀é.jpg") == "a$□□é.jpg"


def test_the_image_stays_and_the_heat_is_where_it_was(tmp_path):
    images = np.full((1, 64, 64, 3), 90, np.uint8)
    heats = np.zeros((1, 64, 64))
    heats[0, 40:, 40:] = 1
    attention(images, heats, ["a"], ["b"], tmp_path / "a.png")
    drawn = picture(tmp_path / "a.png")
    top, left = 34, 8
    assert (drawn[top + 10 : top + 130, left + 10 : left + 130] == 90).all()
    below = drawn[top + 150 : top + 292, left : left + 142]
    assert below[120, 120].sum() > 2 * below[20, 20].sum()


def history(lengths: list[int], **more: float) -> list[dict[str, float]]:
    keys = ("train_loss", "valid_loss", "score", "lr", "grad_norm")
    return [
        {"fold": i // 2, "seed": i % 2, "epoch": epoch, **dict.fromkeys(keys, float(10 * i + epoch)), **more}
        for i, length in enumerate(lengths)
        for epoch in range(1, length + 1)
    ]


@pytest.mark.parametrize("lengths", [[1], [2, 2], [12, 9, 5, 12], [1] * 10])
def test_curves_of_any_number_of_models_and_epochs(lengths, tmp_path):
    curves(history(lengths), "rmse", tmp_path / "c.png", greater_is_better=False)
    curves(history(lengths, grad_norm=float("inf"), lr=0.0), "macro_f1", tmp_path / "c.png")
    picture(tmp_path / "c.png")


def test_the_mean_curve_is_over_all_models_and_ends_with_the_first():
    class Axes:
        def __init__(self):
            self.lines = []

        def plot(self, x, y, **_):
            self.lines.append((list(x), list(y)))

    axes = Axes()
    mean = _lines(axes, history([3, 2, 4]), "score", "k", "")
    assert mean.tolist() == [11, 12]
    assert [len(x) for x, _ in axes.lines] == [3, 2, 4, 2]  # a line for each fold and seed, and the mean

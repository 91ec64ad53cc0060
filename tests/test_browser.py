"""MLflow's pages after the first `make submit`, opened in headless Chromium: they show what a reader looks for."""

import importlib.util
import shutil

import numpy as np
import pytest
from conftest import ROOT, serving
from PIL import Image

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no Chromium here (Debian's packages chromium and chromium-driver)",
)


@pytest.fixture(scope="module")
def pages(first, tmp_path_factory):
    """`docs/screenshots.py` on `make ui`."""
    checkout, _ = first
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs/screenshots.py")
    assert spec and spec.loader
    screenshots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshots)
    with serving(checkout, "ui") as (address, _), screenshots.chromium() as driver:
        yield screenshots.Pages(driver, address, "digits", tmp_path_factory.mktemp("pictures"))


def is_drawn(pages, name: str) -> bool:
    """Whether the picture holds more than an empty page."""
    with Image.open(pages.folder / f"{name}.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB").resize((300, 200))).reshape(-1, 3), axis=0)
    return picture.width >= 1400 and len(colours) > 100


def test_the_table_of_runs_shows_each_stage_and_the_folds_beneath_their_training(pages):
    lines = pages.runs().splitlines()
    for name in ("eda", "fold-0", "fold-1"):
        assert name in lines, lines
    for beginning in ("cv · test_resnet", "folds · ", "submission · "):
        assert any(line.startswith(beginning) for line in lines), lines
    assert "v1" in lines and is_drawn(pages, "runs")  # of the registered model, beside its training


def test_a_folds_charts_draw_losses_metric_and_rate(pages):
    text = pages.charts()
    for name in ("train_loss", "valid_loss", "valid_macro_f1", "lr", "grad_norm", "images_per_s", "seconds"):
        assert name in text
    assert is_drawn(pages, "charts")


def test_a_trainings_files_are_listed_and_its_pictures_shown(pages):
    text = pages.artifacts()
    for name in ("attention.png", "classes.csv", "confusion.png", "folds.csv", "label-errors.csv", "reliability.png"):
        assert name in text
    assert "cv · test_resnet" in text and is_drawn(pages, "artifacts")


def test_the_models_are_listed_with_their_run_and_their_registered_version(pages):
    text = pages.models()
    assert "test_resnet-fold-1" in text and "digits-ensemble" in text and "Ready" in text
    assert "digits v1" in " ".join(text.split()) and is_drawn(pages, "models")

"""Augmentation: a function of (seed, epoch, image) alone, and geometrically what its settings say."""

import numpy as np
import pytest
import torch

from pipeline.augment import N_DRAWS, Normalise, augment, draws, image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.settings import Augment

KEYS = image_keys([f"image-{i}" for i in range(4000)])


def uniform(**columns: float) -> torch.Tensor:
    """Draws for one image; 0.5 is the middle, which changes nothing."""
    names = ["angle", "scale", "shift_x", "shift_y", "flip"]
    return torch.tensor([[columns.get(name, 0.5) for name in names]])


def test_an_images_draws_do_not_depend_on_its_company():
    whole = draws(1, 2, KEYS)
    assert (draws(1, 2, KEYS[[5, 3]]) == whole[[5, 3]]).all()
    assert (draws(1, 2, KEYS) == whole).all()
    for other in (draws(2, 2, KEYS), draws(1, 3, KEYS), draws(1, 2, image_keys(["x"]))):
        assert not (other[0] == whole[0]).any()
    assert (draws(0, 1, KEYS) != draws(1, 0, KEYS)).mean() > 0.99  # seed and epoch are not interchangeable


def test_draws_are_uniform_and_uncorrelated():
    values = draws(7, 0, KEYS)
    assert values.shape == (4000, N_DRAWS) and values.min() >= 0 and values.max() < 1
    counts = np.stack([np.histogram(values[:, column], bins=10, range=(0, 1))[0] for column in range(N_DRAWS)])
    assert (((counts - 400) ** 2 / 400).sum(axis=1) < 27.9).all()  # chi-square, 9 degrees of freedom, p = 0.001
    together = np.hstack([values, draws(7, 1, KEYS)])  # the next epoch, too
    assert np.abs(np.corrcoef(together.T) - np.eye(2 * N_DRAWS)).max() < 0.06


def test_no_augmentation_changes_nothing():
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    assert (augment(images, torch.rand(3, N_DRAWS), Augment()) == images.float()).all()


@pytest.mark.parametrize(
    ("settings", "drawn", "expected"),
    [
        (Augment(rotate_deg=180), uniform(angle=0.75), lambda image: np.rot90(image, 1)),
        (Augment(flip=1.0), uniform(flip=0.99), np.fliplr),
        (Augment(flip=0.5), uniform(flip=0.51), lambda image: image),
        (
            Augment(shift=0.25, fill="black"),
            uniform(shift_x=1.0),
            lambda image: np.pad(image[:, 2:], ((0, 0), (0, 2), (0, 0))),
        ),
    ],
)
def test_each_change_is_the_one_that_numpy_makes(settings, drawn, expected):
    image = torch.randint(0, 256, (1, 8, 8, 1), dtype=torch.uint8)
    changed = augment(image, drawn, settings)[0].numpy()
    assert np.abs(changed - expected(image[0].numpy()).astype(float)).max() < 0.01


def test_scale_above_one_enlarges():
    image = torch.zeros(1, 32, 32, 1, dtype=torch.uint8)
    image[:, 12:20, 12:20] = 200
    settings = Augment(scale=0.5, fill="black")
    areas = [(augment(image, uniform(scale=value), settings) > 100).sum().item() for value in (0.0, 0.5, 1.0)]
    assert areas == pytest.approx([64 * 0.25, 64, 64 * 2.25], rel=0.15)


def test_normalise_is_channel_by_channel():
    spec = Preprocessing(mode="RGB", px=8, crop=1.0, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = (images.numpy() / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    got = Normalise(spec, torch.device("cpu"))(images)
    assert got.shape == (2, 3, 8, 8)
    assert np.abs(got.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5

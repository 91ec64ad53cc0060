"""Augmentation: a function of (seed, epoch, image) alone, and what its settings say, judged by NumPy and Pillow."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from pipeline.augment import COLUMN, DRAWS, Normalise, draw_mix, draws, erase, image_keys, maps, mix, recolour, warp
from pipeline.config.data import Preprocessing
from pipeline.config.training import PRESETS, Augment
from pipeline.feed import feed, window_rows
from pipeline.images.decode import resize_and_crop

KEYS = image_keys([f"image-{i}" for i in range(4000)])
CPU = torch.device("cpu")


def spec(px: int = 8, mode: str = "L", crop: float = 1.0) -> Preprocessing:
    n = len(mode)
    return Preprocessing(mode=mode, px=px, crop=crop, interpolation="bilinear", mean=(0.5,) * n, std=(0.25,) * n)


def uniform(n: int = 1, **columns: float) -> np.ndarray:
    """Draws for n images; 0.5 is the middle, which changes nothing."""
    out = np.full((n, len(DRAWS)), 0.5, np.float32)
    for name, value in columns.items():
        out[:, COLUMN[name]] = value
    return out


def changed(image: np.ndarray, drawn: np.ndarray, settings: Augment, like: Preprocessing) -> np.ndarray:
    [matrix] = maps(np.array([image.shape[:2]]), drawn, settings, like)
    return warp(image, matrix, settings, like)


# --- randomness ----------------------------------------------------------------------------------------------------


def test_an_images_draws_do_not_depend_on_its_company():
    whole = draws(1, 2, KEYS)
    assert (draws(1, 2, KEYS[[5, 3]]) == whole[[5, 3]]).all()
    assert (draws(1, 2, KEYS) == whole).all()
    for other in (
        draws(2, 2, KEYS),
        draws(1, 3, KEYS),
        draws(1, 2, image_keys(["x"])),
        draws(1, 2, KEYS, KEYS * 0 + 1),
    ):
        assert not (other[0] == whole[0]).any()
    assert (draws(1, 2, KEYS, np.zeros(4000, int)) == whole).all()  # the first time is like the only time
    assert (draws(0, 1, KEYS) != draws(1, 0, KEYS)).mean() > 0.99  # seed and epoch are not interchangeable


def test_draws_are_uniform_and_uncorrelated():
    values = draws(7, 0, KEYS)
    n = len(DRAWS)
    assert values.shape == (4000, n) and values.min() >= 0 and values.max() < 1
    counts = np.stack([np.histogram(values[:, column], bins=10, range=(0, 1))[0] for column in range(n)])
    assert (((counts - 400) ** 2 / 400).sum(axis=1) < 33).all()  # chi-square, 9 degrees of freedom, n of p = 0.0001
    together = np.hstack([values, draws(7, 1, KEYS), draws(7, 0, KEYS, np.ones(4000, int))])  # next epoch, next time
    assert np.abs(np.corrcoef(together.T) - np.eye(3 * n)).max() < 0.08


# --- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "drawn", "expected"),
    [
        (Augment(rotate_deg=180), uniform(angle=0.75), lambda image: np.rot90(image, 1)),
        (Augment(quarter_turns=True), uniform(turn=0.3), lambda image: np.rot90(image, 1)),
        (Augment(flip=1.0), uniform(flip=0.99), np.fliplr),
        (Augment(flip_vertical=1.0), uniform(), np.flipud),
        (Augment(flip=0.5, rotate_deg=1e-9), uniform(flip=0.51), lambda image: image),
        (Augment(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0)), uniform(), lambda image: image),
        (
            Augment(shift=0.25, fill="black"),
            uniform(shift_x=1.0),
            lambda image: np.pad(image[:, 2:], ((0, 0), (0, 2), (0, 0))),
        ),
    ],
)
def test_each_change_is_the_one_that_numpy_makes(settings, drawn, expected):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    got = changed(image, drawn, settings, spec())
    assert np.abs(got.astype(int) - expected(image).astype(int)).max() <= 1


def test_scale_above_one_enlarges():
    image = np.zeros((32, 32, 1), np.uint8)
    image[12:20, 12:20] = 200
    settings = Augment(scale=0.5, fill="black")
    areas = [(changed(image, uniform(scale=v), settings, spec(32)) > 100).sum() for v in (0.0, 0.5, 1.0)]
    assert areas == pytest.approx([64 * 0.25, 64, 64 * 2.25], rel=0.15)


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(
        0, 256, (max(height // 16, 2), max(width // 16, 2), channels), dtype=np.uint8
    )
    image = Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image).reshape(height, width, channels)


@pytest.mark.parametrize(
    ("height", "width", "px", "crop"), [(96, 128, 64, 1.0), (130, 96, 64, 0.875), (400, 300, 64, 0.9)]
)
def test_what_is_not_moved_is_what_validation_sees(height, width, px, crop):
    """The same window, to a fraction of a pixel; only the resampling differs."""
    image, like = smooth(height, width), spec(px, "RGB", crop)
    still = Augment(flip=0.001)
    got = changed(image, uniform(), still, like)
    expected = resize_and_crop(Image.fromarray(image), like)
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < 1.5


def test_a_random_crop_has_the_area_ratio_and_place_that_were_drawn():
    settings = Augment(crop_area=(0.25, 0.25), crop_ratio=(1.0, 1.0))
    [matrix] = maps(np.array([[100, 100]]), uniform(crop_x=1.0, crop_y=0.0), settings, spec(50))
    corners = matrix @ np.array([[-0.5, 49.5], [-0.5, 49.5], [1, 1]])  # output's corners in source pixels
    assert corners == pytest.approx(np.array([[49.5, 99.5], [-0.5, 49.5]]))
    wide = Augment(crop_area=(0.08, 1.0))
    sizes = np.tile([[90, 120]], (4000, 1))
    all_ = maps(sizes, draws(0, 0, KEYS), wide, spec(50))
    low, high = (np.einsum("bij,j->bi", all_, np.array([v, v, 1.0])) for v in (-0.5, 49.5))
    assert (low >= -0.501).all() and (high <= np.array([119.501, 89.501])).all()  # never outside
    areas = np.prod(high - low, axis=1) / (90 * 120)
    assert areas.min() > 0.07 and areas.max() <= 1.0 and areas.mean() == pytest.approx(0.52, abs=0.03)


def test_shrinking_much_averages_instead_of_skipping():
    image = np.zeros((256, 256, 3), np.uint8)
    image[::2] = 255  # lines that two neighbours would turn into stripes
    got = changed(image, uniform(), Augment(flip=0.001), spec(32, "RGB"))
    assert np.abs(got.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGB", 1), ("L", 1)])
def test_grey_and_colour_files_come_as_the_model_wants_them(mode, channels):
    image = smooth(64, 64, channels)
    got = changed(image, uniform(), Augment(flip=0.001), spec(64, mode))
    expected = np.asarray(Image.fromarray(image.squeeze()).convert(mode)).reshape(64, 64, -1)
    assert got.shape == expected.shape and np.abs(got.astype(int) - expected).max() <= 1


# --- colours -------------------------------------------------------------------------------------------------------


def recoloured(image: np.ndarray, settings: Augment, **drawn: float) -> np.ndarray:
    images = image[None].copy()
    recolour(images, uniform(**drawn), settings)
    return images[0].astype(int)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("drawn", [0.1, 0.9])
def test_colour_factors_are_torchvisions(name, drawn):
    image = smooth(32, 32) // 2 + 40  # away from the ends, where clipping differs
    got = recoloured(image, Augment(**{name: 0.4}), **{name: drawn})
    factor = 1 + (2 * drawn - 1) * 0.4
    expected = getattr(tv, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_grey_images_have_brightness_and_contrast_too(name):
    image = smooth(32, 32, 1) // 2 + 40
    got = recoloured(image, Augment(**{name: 0.4}, saturation=0.5), **{name: 0.9})
    expected = getattr(tv, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), 1.32).permute(1, 2, 0).numpy()
    assert np.abs(got - expected).max() <= 1


def test_hue_turns_the_colour_wheel_and_keeps_brightness():
    red = np.array([140, 90, 90], np.uint8).reshape(1, 1, 3)
    third, back = (recoloured(red, Augment(hue=1 / 3), hue=value).flatten() for value in (1.0, 0.0))
    for turned in (third, back):
        assert turned @ [0.299, 0.587, 0.114] == pytest.approx(red.flatten() @ [0.299, 0.587, 0.114], abs=1)
    hues = [colorsys.rgb_to_hsv(*(colour / 255))[0] for colour in (third, back)]
    assert abs(hues[0] - hues[1]) == pytest.approx(1 / 3, abs=0.08) and min(hues) > 0.2


def test_losing_all_colour_leaves_luma():
    image = smooth(16, 16)
    luma = np.asarray(Image.fromarray(image).convert("L"), int)
    assert np.abs(recoloured(image, Augment(grey=0.2), grey=0.1) - luma[:, :, None]).max() <= 1
    assert (recoloured(image, Augment(grey=0.2), grey=0.3) == image).all()


def test_erasing_covers_the_share_that_was_drawn_in_one_colour():
    settings = Augment(erase=0.5, erase_area=(0.25, 0.25))
    images = np.full((2, 40, 40, 3), 7, np.uint8)
    drawn = uniform(2, erase_x=0.0, erase_y=1.0, erase_r=0.9)
    drawn[:, COLUMN["erase"]] = [0.4, 0.6]
    erase(images, drawn, settings, spec(40, "RGB"))
    assert (images[1] == 7).all() and (images[0, :20] == 7).all() and (images[0, :, 20:] == 7).all()
    # the mean of the model's data, and 1.28 deviations above it: the normal quantiles of 0.5 and 0.9
    assert (images[0, 20:, :20] == [int((0.5 + 0.25 * 1.28155) * 255), 127, 127]).all()


def test_mixing_weighs_the_labels_by_what_is_seen():
    images, following = torch.zeros(200, 1, 20, 20), torch.ones(200, 1, 20, 20)
    for settings in (Augment(mixup=0.4), Augment(cutmix=1.0), Augment(mixup=0.4, cutmix=1.0, mix_share=0.5)):
        how = draw_mix(draws(0, 0, KEYS[:200]), settings)
        mixed, own = mix(images, following, how)
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), 1 - own, atol=1e-5)
        assert own.std() > 0.1
        if settings.mix_share < 1:
            assert 0.35 < (own == 1).float().mean() < 0.65
    assert draw_mix(draws(0, 0, KEYS[:2]), Augment()) is None


def test_mixup_shares_follow_their_beta_distribution():
    own = draw_mix(draws(3, 0, KEYS), Augment(mixup=0.4)).own.numpy()
    rng = np.random.default_rng(0).beta(0.4, 0.4, 4000)
    assert np.quantile(own, [0.1, 0.3, 0.5, 0.7, 0.9]) == pytest.approx(
        np.quantile(rng, [0.1, 0.3, 0.5, 0.7, 0.9]), abs=0.06
    )


def test_presets_are_values_and_what_is_given_wins():
    assert Augment(preset="strong").rotate_deg == PRESETS["strong"]["rotate_deg"]
    mine = Augment(preset="strong", rotate_deg=3.0, hue=0.0)
    assert mine.rotate_deg == 3.0 and mine.hue == 0 and mine.erase == PRESETS["strong"]["erase"]


def test_normalise_is_channel_by_channel_in_either_layout():
    like = Preprocessing(mode="RGB", px=8, crop=1.0, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = (images.numpy() / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    for last in (True, False):
        got = Normalise(like, CPU, last)(images)
        assert got.shape == (2, 3, 8, 8)
        assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        assert np.abs(got.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5


# --- the feed ------------------------------------------------------------------------------------------------------


def test_a_batch_is_the_same_whatever_the_company_threads_and_cuts(monkeypatch):
    images = torch.zeros(40, 16, 16, 3, dtype=torch.uint8)
    pixels = [smooth(32, 48) for _ in range(40)]
    settings = Augment(preset="strong", blur=0.5)
    like = spec(16, "RGB")

    def fed(order, batch_size, accumulation, cores):
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        windows = window_rows(order, batch_size, accumulation)
        made = list(feed(windows, images, pixels.__getitem__, KEYS[:40], 5, 2, settings, like, CPU))
        assert [w.rows.tolist() for w in made] == [rows.tolist() for rows, _ in windows]
        return {int(row): image for w in made for row, image in zip(w.rows, w.images, strict=True)}

    one = fed(np.arange(40), 40, 1, 1)
    other = fed(np.arange(40)[::-1].copy(), 3, 2, 8)
    assert all(torch.equal(one[i], other[i]) for i in range(40))
    assert not torch.equal(one[0], one[1])


def test_a_row_that_a_sampler_repeats_is_changed_anew_each_time():
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    order = np.array([0, 0, 1, 0])
    windows = window_rows(order, 2, 1)
    settings, like = Augment(rotate_deg=40), spec(16, "RGB")
    made = list(feed(windows, images, lambda row: smooth(32, 32), KEYS[:4], 0, 0, settings, like, CPU))
    first, second, third = made[0].images[0], made[0].images[1], made[1].images[1]
    assert not torch.equal(first, second) and not torch.equal(second, third) and not torch.equal(first, third)


def test_an_error_in_a_thread_reaches_the_loop():
    def broken(row):
        raise OSError("gone")

    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    fed = feed(window_rows(np.arange(4), 2, 1), images, broken, KEYS[:4], 0, 0, Augment(flip=0.5), spec(16, "RGB"), CPU)
    with pytest.raises(OSError, match="gone"):
        list(fed)

"""Decoding against timm's own evaluation transform; files that are no images are named, never met during training."""

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from pipeline.competition.contract import WHERE
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistakes
from pipeline.images.content import MISSING, content_hashes, images_hash
from pipeline.images.load import load_images


def spec(**values) -> Preprocessing:
    defaults = {
        "mode": "RGB",
        "px": 32,
        "crop": 0.875,
        "interpolation": "bicubic",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    return Preprocessing(**(defaults | values))


def row(path, image_id="x") -> dict[str, str]:
    return {"image_id": image_id, "path": str(path), WHERE: "train.csv:2"}


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8))
    path = tmp_path / "photo.png"
    coarse.resize((120, 90), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("size", [(120, 90), (75, 101), (20, 33)])
def test_the_fixed_preprocessing_is_timms_pixel_by_pixel(photo, interpolation, crop, size):
    Image.open(photo).resize(size).save(photo)
    mine = load_images([row(photo)], spec(interpolation=interpolation, crop=crop))[0]
    transform = create_transform(
        (3, 32, 32), is_training=False, interpolation=interpolation, crop_pct=crop, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    theirs = (transform(Image.open(photo)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (mine == theirs).all()


def test_rows_keep_their_order_and_greys_are_one_channel(tmp_path):
    for i in range(20):
        Image.new("L", (9, 7), i * 10).save(tmp_path / f"{i}.png")
    images = load_images([row(tmp_path / f"{i}.png") for i in range(20)], spec(mode="L", mean=(0.5,), std=(0.5,)))
    assert images.shape == (20, 32, 32, 1)
    assert images[:, 0, 0, 0].tolist() == [i * 10 for i in range(20)]


def test_a_photo_lying_on_its_side_is_turned_upright(tmp_path):
    picture = Image.new("L", (40, 40), 0)
    picture.paste(255, (0, 0, 40, 20))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif)
    image = load_images([row(tmp_path / "turned.jpg")], spec(mode="L", mean=(0.5,), std=(0.5,), crop=1.0))[0, :, :, 0]
    assert image[:, 20:].mean() > 200 and image[:, :12].mean() < 50


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "deep.png")
    image = load_images([row(tmp_path / "deep.png")], spec(mode="L", mean=(0.5,), std=(0.5,)))
    assert np.abs(image.astype(int) - 128).max() <= 1


def test_every_unreadable_file_is_named_with_its_row_and_reason(tmp_path, photo):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:2000])
    names = ["empty.png", "text.jpg", "cut.png", "gone.png", "photo.png"]
    rows = [row(tmp_path / name, image_id=name) for name in names]
    with pytest.raises(Mistakes) as caught:
        load_images(rows, spec())
    told = [str(mistake) for mistake in caught.value.mistakes]
    assert [any(name in line for line in told) for name in names] == [True, True, True, True, False]
    assert all("train.csv:2" in line and "valid:" in line for line in told)


def test_a_decompression_bomb_is_refused(monkeypatch, photo):
    monkeypatch.setattr("pipeline.images.decode.MAX_PIXELS", 10_000)
    with pytest.raises(Mistakes, match="bomb"):
        load_images([row(photo)], spec())


def test_content_hashes_follow_content_not_names_or_times(tmp_path):
    memory = tmp_path / "memory.json"
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    paths = [str(tmp_path / name) for name in ("a", "b", "absent")]
    first = content_hashes(paths, memory)
    assert first[2] == MISSING and first[0] != first[1]
    (tmp_path / "a").touch()
    assert content_hashes(paths, memory) == first
    memory.write_text("{damaged")
    assert content_hashes(paths, memory) == first
    (tmp_path / "a").write_bytes(b"six")  # same length
    again = content_hashes(paths, memory)
    assert again[0] != first[0] and again[1] == first[1]
    assert images_hash(["x", "y"], first[:2]) == images_hash(["y", "x"], first[1::-1])
    assert images_hash(["x", "y"], first[:2]) != images_hash(["y", "x"], first[:2])


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"one")
    time.sleep(0.15)  # a file that was changed just now is not remembered
    content_hashes([str(tmp_path / "a")], tmp_path / "memory.json")
    monkeypatch.setattr("pipeline.images.content._sha256", lambda path: pytest.fail(f"{path} was read"))
    content_hashes([str(tmp_path / "a")], tmp_path / "memory.json")


def test_a_file_with_its_old_size_and_time_is_read_again_and_a_changed_memory_is_not_believed(tmp_path, capsys):
    path, memory = tmp_path / "a", tmp_path / "memory.json"
    path.write_bytes(b"one")
    before = path.stat().st_mtime_ns
    time.sleep(0.15)
    [first] = content_hashes([str(path)], memory)
    path.write_bytes(b"six")
    os.utime(path, ns=(before, before))
    time.sleep(0.15)
    [second] = content_hashes([str(path)], memory)
    assert second != first
    memory.write_text(memory.read_text().replace(second, first))
    assert content_hashes([str(path)], memory) == [second] and "memory.json is not as it was" in capsys.readouterr().err

"""The image store: decoded once, found again by content, whole after any kill, and close to the files."""

import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.competition.contract import WHERE
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistakes
from pipeline.images import store as room
from pipeline.images.content import MISSING, content_hashes
from pipeline.images.decode import open_image
from pipeline.images.load import TOLERANCE, load_images, load_thumbnails
from pipeline.images.store import Store, check_side, estimate, side_for

SPEC = Preprocessing(mode="RGB", px=112, crop=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Photo-like: smooth large shapes, edges and a little noise."""
    rng = np.random.default_rng(seed)
    large = Image.fromarray(rng.integers(0, 255, (7, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    small = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = 0.7 * np.asarray(large, float) + 0.3 * np.asarray(small, float) + rng.normal(0, 3, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] *= 0.4
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def rows_of(paths) -> list[dict[str, str]]:
    return [
        {"image_id": Path(path).stem, "path": str(path), "label": "a", WHERE: f"train.csv:{i + 2}"}
        for i, path in enumerate(paths)
    ]


def hashes_of(rows, tmp_path) -> list[str]:
    return content_hashes([row["path"] for row in rows], tmp_path / "memory.json")


def built(tmp_path, rows, side=64, name="store"):
    store = Store(tmp_path / name, side)
    hashes = hashes_of(rows, tmp_path)
    assert store.build(rows, hashes, lambda n: None) == []
    return store, hashes


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = []
    for i, (width, height) in enumerate([(90, 70), (40, 60), (64, 64), (300, 200), (33, 500), (80, 81)]):
        paths.append(tmp_path / f"p{i}.{'jpg' if i % 2 else 'png'}")
        photo(width, height, i).save(paths[-1], quality=95)
    photo(50, 50, 9).convert("L").save(tmp_path / "grey.png")
    return [*paths, tmp_path / "grey.png"]


def test_pixels_have_the_side_that_was_asked_for_and_are_those_of_the_file(tmp_path, pictures):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows)
    for row, content in zip(rows, hashes, strict=True):
        pixels, original = store.pixels(content), np.asarray(open_image(row["path"])[0])
        assert min(pixels.shape[:2]) == min(64, *original.shape[:2])
        if max(min(original.shape[:2]), 0) <= 64:
            assert (pixels.squeeze() == original).all()
    assert store.pixels(hashes[-1]).shape == (50, 50, 1)  # grey takes a third of the room
    assert isinstance(store.pixels(hashes[0]).base, np.memmap) or isinstance(store.pixels(hashes[0]), np.memmap)


def test_a_renamed_file_costs_nothing_and_a_changed_one_is_noticed(tmp_path, pictures):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows)
    size = store.n_bytes
    pictures[0].rename(tmp_path / "renamed.png")
    photo(90, 70, 77).save(pictures[1], quality=95)
    rows = rows_of([tmp_path / "renamed.png", *pictures[1:]])
    again = Store(tmp_path / "store", 64)
    hashes = hashes_of(rows, tmp_path)
    assert again.missing(hashes) == [1]
    counted = []
    again.build(rows, hashes, counted.append)
    assert counted == [1] and again.missing(hashes) == [] and again.n_bytes > size
    assert (again.pixels(hashes[0]) == store.pixels(hashes[0])).all()


def test_facts_are_those_of_the_images(tmp_path, pictures):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows, side=256)
    facts = store.facts(hashes)
    for path, fact in zip(pictures, facts, strict=True):
        image = Image.open(path)
        image.load()
        rgb = np.asarray(image.convert("RGB"), float) / 255
        luma = np.asarray(image.convert("L"), float) / 255
        assert (fact["width"], fact["height"]) == image.size and fact["format"].decode() == image.format
        assert fact["brightness"] == pytest.approx(luma.mean(), abs=2e-3)
        assert fact["contrast"] == pytest.approx(luma.std(), abs=5e-3)
        assert fact["mean"] == pytest.approx(rgb.mean((0, 1)), abs=2e-3)
        assert fact["sq"] == pytest.approx((rgb**2).mean((0, 1)), abs=5e-3)
        thumb = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC), float)
        assert np.abs(fact["thumb"] - thumb).mean() < 3
    assert len({fact["pixels"] for fact in facts}) == len(facts)
    blurred = tmp_path / "blurred.png"
    Image.open(pictures[0]).resize((20, 16)).resize((90, 70)).save(blurred)
    assert (
        built(tmp_path, rows_of([blurred]), 256)[0].facts(hashes_of(rows_of([blurred]), tmp_path))["blur"]
        < facts[0]["blur"] / 4
    )


def test_one_picture_in_two_formats_has_equal_pixels(tmp_path, pictures):
    Image.open(pictures[0]).save(tmp_path / "same.bmp")
    rows = rows_of([pictures[0], tmp_path / "same.bmp"])
    store, hashes = built(tmp_path, rows)
    facts = store.facts(hashes)
    assert hashes[0] != hashes[1] and facts["pixels"][0] == facts["pixels"][1]


def test_bad_files_are_told_all_of_them_and_the_rest_is_kept(tmp_path, pictures):
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no image")
    rows = rows_of([pictures[0], tmp_path / "cut.png", tmp_path / "text.jpg", tmp_path / "gone.png", pictures[1]])
    hashes = hashes_of(rows, tmp_path)
    store = Store(tmp_path / "store", 64)
    told = store.build(rows, hashes, lambda n: None)
    assert [(m.where, m.image_id) for m in told] == [("train.csv:3", "cut"), ("train.csv:4", "text")]
    assert hashes[3] == MISSING and store.pixels(hashes[0]) is not None and store.pixels(hashes[4]) is not None
    assert [m.where for m in store.build(rows, hashes, lambda n: None)] == ["train.csv:3", "train.csv:4"]  # and again


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import rows_of, hashes_of
from pipeline.images import store as room
room.CHUNK = 8
store = room.Store(Path({folder!r}) / "store", 64)
rows = rows_of(sorted(Path({folder!r}).glob("*.jpg")))
def advance(n):
    print(n, flush=True)
    time.sleep(0.2)
store.build(rows, hashes_of(rows, Path({folder!r})), advance)
"""


def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    for i in range(60):
        photo(100, 80, i).save(tmp_path / f"{i:02d}.jpg")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["8\n", "8\n"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = Store(tmp_path / "store", 64)
    rows = rows_of(sorted(tmp_path.glob("*.jpg")))
    hashes = hashes_of(rows, tmp_path)
    left = len(store.missing(hashes))
    assert 28 <= left <= 44
    with (tmp_path / "store/pixels.bin").open("ab") as file:  # a tail, as a kill between the two writes leaves it
        file.write(b"x" * 1000)
    with (tmp_path / "store/index.bin").open("ab") as file:
        file.write(b"half a record")
    counted = []
    store = Store(tmp_path / "store", 64)
    store.build(rows, hashes, counted.append)
    assert sum(counted) == left
    other, _ = built(tmp_path, rows, name="undisturbed")
    for content in hashes:
        assert (store.pixels(content) == other.pixels(content)).all()
    assert store.n_bytes == other.n_bytes
    assert (store.facts(hashes)["thumb"] == other.facts(hashes)["thumb"]).all()


def test_an_index_that_lost_its_pixels_is_not_believed(tmp_path, pictures):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows)
    os.truncate(tmp_path / "store/pixels.bin", int(store.facts(hashes)["offset"].max()) + 10)
    again = Store(tmp_path / "store", 64)
    assert len(again.missing(hashes)) == 1
    assert again.build(rows, hashes, lambda n: None) == [] and again.missing(hashes) == []
    for row, content in zip(rows, hashes, strict=True):
        assert (again.pixels(content) == built(tmp_path, [row], name=f"one-{row['image_id']}")[0].pixels(content)).all()


def test_a_store_of_another_version_is_made_anew(tmp_path, pictures, capsys):
    rows = rows_of(pictures)
    built(tmp_path, rows)
    (tmp_path / "store/store.json").write_text('{"version": "0"}')
    store, hashes = built(tmp_path, rows)
    assert store.missing(hashes) == [] and "made anew" in capsys.readouterr().err


def test_two_processes_at_once_make_one_store(tmp_path):
    for i in range(30):
        photo(60, 50, i).save(tmp_path / f"{i:02d}.jpg")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path)).replace("time.sleep(0.2)", "pass")
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    rows = rows_of(sorted(tmp_path.glob("*.jpg")))
    store, hashes = Store(tmp_path / "store", 64), hashes_of(rows, tmp_path)
    assert store.missing(hashes) == [] and len(store._records) == 30


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, pictures, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage(10, 10, 100))
    store = Store(tmp_path / "store", 64)
    with pytest.raises(Mistakes, match=r"need about .* GB, and 0\.0 GB are free; valid: a smaller images\.store"):
        store.build(rows_of(pictures), hashes_of(rows_of(pictures), tmp_path), lambda n: None)
    assert not (tmp_path / "store/pixels.bin").exists()


def test_the_estimate_is_near_the_truth(tmp_path, pictures):
    store, _ = built(tmp_path, rows_of(pictures))
    assert estimate([str(path) for path in pictures], 64) == pytest.approx(store.n_bytes, rel=0.1)


def test_off_keeps_facts_and_no_pixels(tmp_path, pictures):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows, side="off")
    assert store.pixels(hashes[0]) is None and store.n_bytes < 5000 * len(rows)
    assert (load_images(rows, SPEC, store, hashes) == load_images(rows, SPEC)).all()
    assert (store.facts(hashes)["thumb"] == built(tmp_path, rows, 256, "b")[0].facts(hashes)["thumb"]).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_where_the_file_was_no_larger_the_store_gives_the_same_pixels(tmp_path, pictures, interpolation):
    rows = rows_of([path for path in pictures if min(size_of(path)) <= 128])
    store, hashes = built(tmp_path, rows, side=128)
    spec = SPEC.model_copy(update={"interpolation": interpolation})
    assert (load_images(rows, spec, store, hashes) == load_images(rows, spec)).all()


@pytest.mark.parametrize("size", [(400, 300), (300, 420), (1600, 1200), (900, 2500), (129, 130)])
@pytest.mark.parametrize("side", [128, 200])
def test_the_store_stays_within_the_tolerance_of_the_file(tmp_path, size, side):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(*size).save(tmp_path / "a.jpg", quality=92)
    photo(*size, 1).save(tmp_path / "b.jpg", quality=92, exif=exif)
    rows = rows_of([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    store, hashes = built(tmp_path, rows, side=side)
    apart = np.abs(load_images(rows, SPEC, store, hashes).astype(int) - load_images(rows, SPEC).astype(int))
    assert apart.mean() <= TOLERANCE["mean"] and np.quantile(apart, 0.999) <= TOLERANCE["99.9 %"]
    if side == 128 and max(size) < 1000:  # the size that the model wants, and not decoded at a fraction
        assert apart.max() <= 1  # torch's rounding against Pillow's


def test_large_arrays_lie_in_a_file_and_hold_the_same(tmp_path, pictures, monkeypatch):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows)
    plain = load_images(rows, SPEC, store, hashes)
    monkeypatch.setattr("pipeline.images.load.IN_MEMORY", 1000)
    mapped = load_images(rows, SPEC, store, hashes)
    assert isinstance(mapped, np.memmap) and (mapped == plain).all()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")) == []


def test_thumbnails_are_whole_images(tmp_path, pictures):
    rows = rows_of(pictures)
    for side in (64, "off"):
        store, hashes = built(tmp_path, rows, side=side, name=f"s{side}")
        for thumbnail, row in zip(load_thumbnails(rows, 48, store, hashes), rows, strict=True):
            width, height = size_of(row["path"])
            assert max(thumbnail.shape[:2]) <= 48
            assert thumbnail.shape[1] / thumbnail.shape[0] == pytest.approx(width / height, rel=0.25)


def test_the_side_is_one_that_models_share_and_never_too_small():
    assert side_for("auto", SPEC) == 128
    assert side_for("auto", SPEC.model_copy(update={"px": 300, "crop": 0.9})) == 384
    assert side_for("auto", SPEC.model_copy(update={"px": 2048, "crop": 0.9})) == 2275
    assert (side_for("off", SPEC), side_for(333, SPEC)) == ("off", 333)
    assert check_side(128, SPEC) == [] and check_side("auto", SPEC) == []
    assert "needs a short side of 128" in str(check_side(100, SPEC)[0])


def test_a_file_that_is_replaced_between_its_hash_and_its_decoding_is_refused(tmp_path, pictures):
    rows, hashes = rows_of(pictures), hashes_of(rows_of(pictures), tmp_path)
    pictures[1].write_bytes(pictures[0].read_bytes())
    store = Store(tmp_path / "store", 64)
    [mistake] = store.build(rows, hashes, lambda n: None)
    assert "replaced while this command worked" in mistake.found and not store.has(hashes[1])
    decoded_anew = Store(tmp_path / "off", "off")
    with pytest.raises(Mistakes, match="replaced while"):
        load_images(rows, SPEC, decoded_anew, hashes)


@pytest.mark.parametrize("at", ["pixels", "record"])
def test_what_was_changed_in_the_store_is_decoded_again(tmp_path, pictures, capsys, at):
    rows = rows_of(pictures)
    store, hashes = built(tmp_path, rows)
    expected = [store.pixels(content).copy() for content in hashes]
    path = tmp_path / "store" / {"pixels": "pixels.bin", "record": "index.bin"}[at]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = Store(tmp_path / "store", 64)
    again.drop_changed(hashes)
    assert len(again.missing(hashes)) == 1 and "is not as it was written" in capsys.readouterr().err
    assert again.build(rows, hashes, lambda n: None) == []
    for store in (again, Store(tmp_path / "store", 64)):
        assert store.drop_changed(hashes) is None and store.missing(hashes) == []
        assert all((store.pixels(c) == pixels).all() for c, pixels in zip(hashes, expected, strict=True))

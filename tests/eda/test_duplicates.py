"""Near-duplicates: the hashes are imagehash's, all turns are found, and look-alikes are not."""

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from pipeline.competition.grouping import sets_of
from pipeline.eda.duplicates import _hashes, exact_sets, near_pairs

T = Image.Transpose


def photo(seed: int, size=(120, 100)) -> Image.Image:
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 255, (n, n), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for n in (5, 12)
    ]
    return Image.blend(layers[0], layers[1], 0.4)


def thumbs(images) -> np.ndarray:
    return np.stack([np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)) for image in images])


def pairs(images, bits=8, correlation=0.93):
    return near_pairs(thumbs(images), np.array([min(image.size) for image in images]), bits, correlation)


@pytest.mark.parametrize("seed", range(6))
def test_the_eight_hashes_are_those_of_the_turned_pictures(seed):
    image = Image.fromarray(thumbs([photo(seed)])[0])
    turns = {
        (0, 0, 0): None, (0, 0, 1): T.FLIP_LEFT_RIGHT, (0, 1, 0): T.FLIP_TOP_BOTTOM, (0, 1, 1): T.ROTATE_180,
        (1, 0, 0): T.TRANSPOSE, (1, 1, 1): T.TRANSVERSE, (1, 0, 1): T.ROTATE_270, (1, 1, 0): T.ROTATE_90,
    }  # fmt: skip
    for turn, hashes in _hashes(thumbs([image])):
        turned = image if turns[turn] is None else image.transpose(turns[turn])
        theirs = np.packbits(imagehash.phash(turned).hash.reshape(-1)).view(np.uint64)[0]
        assert hashes[0] == theirs, turn


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((60, 50)),
        lambda image: image.rotate(90, expand=True),
        ImageOps.mirror,
        ImageOps.flip,
        lambda image: image.crop((4, 3, 117, 97)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: Image.fromarray(
            (np.asarray(image, float) + np.random.default_rng(0).normal(0, 8, (100, 120))).clip(0, 255).astype(np.uint8)
        ),
    ],
    ids=["resized", "turned", "mirrored", "flipped", "cropped", "darker", "flatter", "noisy"],
)
def test_each_kind_of_copy_is_found_among_strangers(change):
    images = [photo(seed) for seed in range(40)]
    images.append(change(images[7]))
    assert [(pair.a, pair.b) for pair in pairs(images)] == [(7, 40)]


def test_strangers_are_no_copies_and_the_hash_alone_would_say_so():
    rng = np.random.default_rng(0)
    face = np.asarray(photo(1), float)  # faces: one layout, and details of their own
    images = []
    for _ in range(60):
        details = Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)).resize(
            (120, 100), Image.Resampling.BICUBIC
        )
        images.append(Image.fromarray((0.72 * face + 0.28 * np.asarray(details, float)).astype(np.uint8)))
    by_hash = pairs(images, correlation=0.5)
    assert len(by_hash) > 20 and len(pairs(images)) < len(by_hash) / 10


def test_images_of_one_colour_and_tiny_ones_are_not_compared():
    flat = [Image.new("L", (50, 50), 80)] * 3
    tiny = [Image.fromarray(np.asarray(photo(1).resize((10, 10))))] * 3
    assert pairs(flat) == [] and pairs(tiny) == [] and pairs(tiny[:1]) == []
    assert near_pairs(np.zeros((0, 32, 32), np.uint8), np.zeros(0), 8, 0.93) == []


def test_sets_of_equal_bytes_or_pixels():
    digests = np.array([b"p", b"q", b"p", b"r", b"s"], "S8")
    assert exact_sets(["x", "y", "z", "y", "w"], digests) == [[0, 2], [1, 3]]
    assert exact_sets(["x", "x", "z"], np.array([b"a", b"a", b"a"], "S8")) == [[0, 1, 2]]


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_sets_are_the_connected_components(n, edges):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = [(a % n, b % n) for a, b in edges if a % n != b % n]
    graph = coo_matrix((np.ones(len(edges)), tuple(np.array(edges).reshape(-1, 2).T)), (n, n))
    codes = connected_components(graph, directed=False)[1]
    expected = sorted(np.flatnonzero(codes == c).tolist() for c in set(codes) if (codes == c).sum() > 1)
    assert sorted(sets_of(n, edges)) == expected

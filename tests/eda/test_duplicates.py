"""Copies and look-alikes that are known: drawn pictures with details of their own, and changed versions of some."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.competition.grouping import sets_of
from pipeline.eda import candidates as closest
from pipeline.eda import overlay
from pipeline.eda.candidates import Cells, candidates, described
from pipeline.eda.duplicates import copies, exact_sets, standing_out


def blurred_noise(rng, height: int, width: int, cells: int) -> np.ndarray:
    return cv2.resize(
        rng.normal(size=(cells, cells, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )


def photo(seed: int, height=100, width=120) -> np.ndarray:
    """(h, w, 3) uint8 of coarse and fine blobs."""
    rng = np.random.default_rng(seed)
    layers = (blurred_noise(rng, height, width, n) * (35 / n**0.4) for n in (3, 6, 12, 24))
    return (128 + 2 * sum(layers)).clip(0, 255).astype(np.uint8)


def shirt(seed: int) -> np.ndarray:
    """(28, 28, 3) grey uint8: one cut in small variations, as a shop's catalogue has thousands of."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((112, 112), np.uint8)
    width, length, sleeve, neck = rng.integers((22, 68, 20, 4), (30, 88, 60, 12)).tolist()
    shade = int(rng.integers(90, 230))
    points = [(56 - width, 14), (56 + width, 14), (56 + width, 14 + length), (56 - width, 14 + length)]
    cv2.fillPoly(canvas, [np.array(points, np.int32)], shade)
    for side in (-1, 1):
        arm = [
            (56 + side * width, 14),
            (56 + side * 50, 14 + sleeve),
            (56 + side * 40, 20 + sleeve),
            (56 + side * width, 40),
        ]
        cv2.fillPoly(canvas, [np.array(arm, np.int32)], shade - 10)
    cv2.circle(canvas, (56, 12), neck, 0, -1)
    grey = cv2.resize(canvas, (28, 28), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey += rng.normal(0, 6, (28, 28)) * (grey > 20)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def thumbs(pictures) -> np.ndarray:
    return np.stack([cv2.resize(np.ascontiguousarray(p), (32, 32), interpolation=cv2.INTER_AREA if min(p.shape[:2]) >= 32 else cv2.INTER_CUBIC) for p in pictures])  # fmt: skip


def turned_by(picture: np.ndarray, degrees: float) -> np.ndarray:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def captioned(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[-14:] = 0
    picture[-10:-4, 6:60:3] = 255
    return picture


def shifted(picture: np.ndarray, pixels: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return cv2.copyMakeBorder(picture, pixels, 0, pixels, 0, cv2.BORDER_REPLICATE)[:height, :width]


CHANGES = {
    "halved": lambda p: cv2.resize(p, (60, 50), interpolation=cv2.INTER_AREA),
    "JPEG 30": lambda p: jpeg(p, 30),
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "quarter turn": np.rot90,
    "transposed, darker": lambda p: (p.transpose(1, 0, 2) * 0.8).astype(np.uint8),
    "tilted": lambda p: turned_by(p, 5),
    "crop of 90 %": lambda p: p[5:95, 6:114],
    "crop of 80 %, mirrored": lambda p: p[10:90, 12:108][:, ::-1],
    "corner of 85 %": lambda p: p[15:, :102],
    "moved by 8 %": lambda p: shifted(p, 8),
    "framed": lambda p: cv2.copyMakeBorder(p, 5, 5, 5, 5, cv2.BORDER_CONSTANT, value=(255, 255, 255)),
    "captioned": captioned,
    "flatter": lambda p: (p * 0.6 + 40).astype(np.uint8),
    "warmer": lambda p: (p * np.float32([0.8, 1, 1.1])).clip(0, 255).astype(np.uint8),
    "without colour": lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2),
    "noisy": lambda p: (p + np.random.default_rng(0).normal(0, 10, p.shape)).clip(0, 255).astype(np.uint8),
}


def test_each_kind_of_copy_is_found_among_strangers():
    originals = [photo(seed) for seed in range(80)]
    changed = [np.ascontiguousarray(change(originals[i])) for i, change in enumerate(CHANGES.values())]
    expected = [[i, 80 + i] for i in range(len(CHANGES))]
    assert copies(thumbs([*originals, *changed])) == expected


def test_a_crowd_of_look_alikes_is_none_and_a_copy_inside_it_is_one():
    crowd = [shirt(seed) for seed in range(600)]
    assert copies(thumbs(crowd)) == []
    nearly = [crowd[7].astype(int) + 1, crowd[80][:, ::-1]]  # a grey level, and mirrored
    pictures = [*crowd, *(p.clip(0, 255).astype(np.uint8) for p in nearly)]
    assert copies(thumbs(pictures)) == [[7, 600], [80, 601]]


def test_the_crowd_does_not_hide_in_a_collection_of_other_pictures():
    mixed = [*(shirt(seed) for seed in range(600)), *(photo(seed) for seed in range(50))]
    assert copies(thumbs([*mixed, jpeg(mixed[610], 40)])) == [[610, 650]]


def test_a_ladder_of_copies_is_one_set():
    rungs = [photo(1)]
    for n in range(12):
        rungs.append(
            jpeg(np.ascontiguousarray(rungs[-1][1:, 1:] if n % 2 else (rungs[-1] * 0.97).astype(np.uint8)), 60)
        )
    others = [photo(seed) for seed in range(2, 60)]
    assert copies(thumbs([*rungs, *others])) == [list(range(13))]


def test_equal_pictures_are_in_a_set_all_or_none():
    pictures = [photo(seed) for seed in range(30)]
    pictures += [pictures[3], pictures[3], jpeg(pictures[3], 40), pictures[9]]
    exact = [[3, 30, 31], [9, 33]]
    assert copies(thumbs(pictures), exact) == [[3, 30, 31, 32]]


def test_pictures_of_one_colour_are_copies_of_nothing():
    flat = np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in (80, 80, 81, 200)])
    assert copies(flat) == [] and copies(flat[:1]) == [] and copies(flat[:0]) == []
    assert copies(np.concatenate([flat, thumbs([photo(1)])])) == []


def test_a_map_says_where_the_copy_lies():
    """Candidates start a map and alignment refines it: places in the copy, to places in the original, by hand."""
    grey = thumbs([photo(seed) for seed in range(40)])[..., 0]
    copy = thumbs([photo(5)[15:, :102]])[..., 0]  # middle at 42.5 % and 57.5 %, 85 % of each side
    a, b, maps = candidates(np.concatenate([grey, copy]))
    [pair] = np.flatnonzero((np.minimum(a, b) == 5) & (np.maximum(a, b) == 40))
    assert (a[pair], b[pair]) == (5, 40)
    x, y = grey[[5]].astype(np.float32), copy.astype(np.float32)
    change = overlay.aligned(x, y, maps[[pair]], np.zeros((1, 2, 3), np.float32), steps=5)
    place = overlay.moved(maps[[pair]], change)[0]
    assert place == pytest.approx(np.array([[0.85, 0, -0.075], [0, 0.85, 0.075]]), abs=0.01)
    assert overlay.unexplained(x, y, place[None])[0] < 0.08 < overlay.unexplained(x, y, maps[[pair]])[0]


def test_descriptions_of_turned_pictures_are_turned_descriptions():
    grey = thumbs([photo(seed) for seed in range(5)])[..., 1]
    low, signs = described(grey), (-1.0) ** np.arange(8)
    assert described(grey[:, :, ::-1]) == pytest.approx(low * signs, abs=1e-4)
    assert described(grey.transpose(0, 2, 1)) == pytest.approx(low.transpose(0, 2, 1), abs=1e-4)
    assert described(grey // 2 + 60) == pytest.approx(low, abs=0.02)


def test_cells_find_nearly_all_that_a_full_search_finds():
    rng = np.random.default_rng(0)
    low = described(np.stack([blurred_noise(rng, 32, 32, 5)[..., 0] * 40 + 128 for _ in range(2_000)]))
    flat = low.reshape(len(low), -1)
    query = low + rng.normal(0, 0.02, low.shape).astype(np.float32)
    cells = Cells(low)
    assert len(cells.members) == 2_000 // closest.IN_CELL
    assert sorted(np.concatenate(cells.members).tolist()) == list(range(2_000))
    likeness = query.reshape(len(low), -1) @ flat.T
    np.fill_diagonal(likeness, -1)
    (rows, other), values = cells.nearest(query, 4, np.full(len(low), -1, np.float32), 5)
    assert values == pytest.approx(likeness[rows, other])
    found = dict.fromkeys(zip(rows.tolist(), other.tolist(), strict=True))
    assert np.mean([(row, best) in found for row, best in enumerate(likeness.argmax(axis=1).tolist())]) > 0.9


def test_sets_that_stand_out_worked_by_hand():
    # 0-1-2 at 0.1, 2-3 at 0.29 (too near for a gap), 4-5 at 0.1 far from all, 6-7 at 0.1 and 7-8 at 0.35
    a, b = np.array([0, 1, 2, 4, 6, 7]), np.array([1, 2, 3, 5, 7, 8])
    distance = np.array([0.1, 0.1, 0.29, 0.1, 0.1, 0.35])
    assert standing_out(9, a, b, distance, 1 / 3, 0.4) == [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    out = np.array([0, 3, 6, 8]), np.array([9, 9, 9, 9])  # all of them 0.8 from a stranger: 0.29 and 0.35 are no gap
    a, b, distance = np.append(a, out[0]), np.append(b, out[1]), np.append(distance, [0.8] * 4)
    assert standing_out(10, a, b, distance, 1 / 3, 0.4) == [[4, 5], [6, 7]]
    assert standing_out(10, a, b, distance, 1 / 2, 0.4) == [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    chain = np.arange(299)
    assert standing_out(300, chain, chain + 1, np.full(299, 0.2), 1 / 3, 0.4) == []
    assert len(standing_out(300, chain, chain + 1, np.full(299, 0.02), 1 / 3, 0.4)[0]) == 300


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


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 9, 30])
def test_few_pictures_of_noise_have_no_copies_and_break_nothing(n):
    thumbs = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
    assert copies(thumbs, []) == []
    if n > 1:
        thumbs[1] = thumbs[0]
        assert copies(thumbs, [[0, 1]]) == []  # equal pixels are told as the same picture

"""The same picture more than once: equal bytes or pixels, and copies that were changed.

In: content hashes and facts of images. Out: sets of row numbers. What a copy is depends on the collection: in one of
shirts or blank slides everything is alike. So there is no likeness from which on a pair is a copy. A set of pictures is
one of copies where its members are much nearer to each other than to everything else:

1. Each picture is compared with the few that look most like it (`candidates`).
2. The two are laid on each other; their distance is the share of their gradients that stays unexplained (`overlay`).
3. Pairs are joined from the smallest distance upwards (single link). A set holds where its loosest link is at most
   `MUCH_NEARER` times the tightest link that leads out of it. Crowds of look-alikes have no such gap.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.competition.grouping import sets_of
from pipeline.eda import overlay
from pipeline.eda.candidates import candidates

MUCH_NEARER = 1 / 3  # loosest link inside to the tightest one that leads out
MOST_APART = 0.4  # unexplained share of the loosest link, in sets of up to `LONG_CHAIN` pictures
LONG_CHAIN = 30
# at half the size: what is farther apart stays so, and pairs in no set by this wider gap are not looked at more closely
ROUGHLY_APART, ROUGHLY_NEARER = 0.8, 0.8
FLAT = 2.0  # grey levels, standard deviation: below it nothing in the picture tells a copy from a stranger
COLOURLESS = 4.0  # grey levels between the channels, on average
BATCH = 64


def exact_sets(contents: Sequence[str], pixels: np.ndarray) -> list[list[int]]:
    """Sets of rows with equal bytes or equal decoded pixels, each sorted. pixels: (N,) digests of the pixels."""
    edges = [pair for keys in (contents, pixels.tolist()) for pair in _equal(keys)]
    return sets_of(len(contents), edges)


def copies(thumbs: np.ndarray, exact: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """Sets of rows that show one picture, changed, in the order of their first member; each set sorted.

    thumbs: (N, 32, 32, 3) uint8. exact: sets of rows that are equal; in a set of copies they are all, or none.
    """
    equals = {members[0]: list(members) for members in exact}
    repeats = {row for members in exact for row in members[1:]}
    grey = luma(thumbs)
    flat = np.concatenate([grey[i : i + 4096].std(axis=(1, 2)) < FLAT for i in range(0, len(grey), 4096)] or [[]])
    rows = np.array([row for row in np.flatnonzero(~flat.astype(bool)).tolist() if row not in repeats], int)
    if len(rows) < 2:
        return []
    a, b, distance = distances(thumbs, grey, rows)
    found = standing_out(len(rows), a, b, distance, MUCH_NEARER, MOST_APART)
    return sorted(sorted(i for row in rows[s].tolist() for i in equals.get(row, [row])) for s in found)


def luma(thumbs: np.ndarray) -> np.ndarray:
    """(N, 32, 32) uint8. thumbs: (N, 32, 32, 3) uint8."""
    grey = np.empty(thumbs.shape[:3], np.uint8)
    for i in range(0, len(thumbs), 4096):
        grey[i : i + 4096] = thumbs[i : i + 4096] @ np.array([0.299, 0.587, 0.114], np.float32) + 0.5
    return grey


def distances(thumbs: np.ndarray, grey: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) a, (P,) b, both places in `rows`, and (P,) how much of either is unexplained by the other."""
    a, b, maps = candidates(grey[rows])
    change = np.zeros_like(maps)
    distance = np.empty(len(a), np.float32)
    thumbs = thumbs[..., 0] if (thumbs[..., 1:] == thumbs[..., :-1]).all() else thumbs
    for part in _batches(np.arange(len(a))):
        x, y = (_halved(grey[rows[side[part]]]) for side in (a, b))
        change[part] = overlay.aligned(x, y, maps[part], change[part], steps=2)
        as_found, after = (
            overlay.unexplained(x, y, maps[part]),
            overlay.unexplained(x, y, overlay.moved(maps[part], change[part])),
        )
        # a caption on one of the two may pull them apart
        change[part[as_found < after]] = 0
        distance[part] = np.minimum(as_found, after)
    near = np.flatnonzero(distance <= ROUGHLY_APART)
    a, b, maps, change, distance = a[near], b[near], maps[near], change[near], distance[near]
    worth = np.zeros(len(rows), bool)
    for members in standing_out(len(rows), a, b, distance, ROUGHLY_NEARER, ROUGHLY_APART):
        worth[members] = True
    for part in _batches(np.flatnonzero(worth[a] | worth[b])):
        x, y = (grey[rows[side[part]]].astype(np.float32) for side in (a, b))
        place = overlay.moved(maps[part], overlay.aligned(x, y, maps[part], change[part], steps=1))
        lumas = x, y
        x, y = (thumbs[rows[side[part]]].astype(np.float32) for side in (a, b))
        if x.ndim == 4:
            # of a grey and a coloured picture, the light alone can be the same
            colourless = [np.ptp(side, axis=3).mean(axis=(1, 2)) < COLOURLESS for side in (x, y)]
            unlike = colourless[0] != colourless[1]
            x[unlike], y[unlike] = (light[unlike][..., None] for light in lumas)
        distance[part] = overlay.unexplained(x, y, place)
    return a, b, distance


def standing_out(
    n: int, a: np.ndarray, b: np.ndarray, distance: np.ndarray, ratio: float, most_apart: float
) -> list[list[int]]:
    """The largest sets of n rows whose loosest link is at most `most_apart`, and `ratio` times the tightest one out.

    A chain of look-alikes may be long, so sets of more than `LONG_CHAIN` rows have to hang together more tightly.
    """
    parent = list(range(n))
    members = [[i] for i in range(n)]
    loosest = [0.0] * n
    held: list[list[list[int]]] = [[] for _ in range(n)]  # sets that hold inside each tree

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def close(i: int, out: float) -> None:
        size = len(members[i])
        if size > 1 and loosest[i] <= min(most_apart * min(1, LONG_CHAIN / size), ratio * out):
            held[i] = [members[i]]

    order = np.argsort(distance, kind="stable")
    for i, j, link in zip(a[order].tolist(), b[order].tolist(), distance[order].tolist(), strict=True):
        i, j = root(i), root(j)
        if i == j:
            continue
        close(i, link)
        close(j, link)
        i, j = (i, j) if len(members[i]) >= len(members[j]) else (j, i)
        parent[j] = i
        if held[i] and held[i][0] is members[i]:
            members[i] = members[i].copy()
        members[i] += members[j]
        held[i] += held[j]
        loosest[i] = link
    trees = [i for i in range(n) if parent[i] == i]
    for i in trees:
        close(i, np.inf)
    return sorted(sorted(rows) for i in trees for rows in held[i])


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def _halved(x: np.ndarray) -> np.ndarray:
    """(P, s / 2, s / 2) float32."""
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean(axis=(2, 4), dtype=np.float32)


def _equal(keys: Sequence) -> Iterator[tuple[int, int]]:
    first: dict = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) != i:
            yield first[key], i

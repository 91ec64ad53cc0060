"""Which pictures are worth a closer look: for each the few that look most like it, turned and cropped ways included.

In: (N, 32, 32) grey thumbnails. Out: pairs of rows, each with the affine map that roughly lays one on the other. A
picture is described by its low frequencies, the middle weighing most. K-means sorts the descriptions into cells, and a
picture is compared with the members of its few nearest cells (the inverted file of Jégou, Douze & Schmid 2011, "Product
quantization for nearest neighbor search"), so the time does not grow with the square of N.
"""

import numpy as np

SIDE = 32  # of the thumbnails
N_LOW = 8  # frequencies along each axis
IN_CELL = 200  # pictures, on average
CELLS = (4, 3)  # that are searched for a whole picture, and for a part of it
KEPT = (5, 4)  # candidates of each picture: by the whole, and by all of its parts
LEAST = 0.6  # likeness: below it nothing is a candidate
Part = tuple[float, float, float]  # middle x, middle y and size, in sides of the picture from its middle
WHOLE: Part = (0, 0, 1)
# a crop, and a picture that was moved, look like a part of the other one
PARTS: list[Part] = [(0, 0, 0.9), (0, 0, 0.8)]
PARTS += [(x, y, 1 - 2 * d) for d in (0.05, 0.1) for x in (-d, d) for y in (-d, d)]
TURNS = [(swapped, down, across) for swapped in (0, 1) for down in (0, 1) for across in (0, 1)]
BLOCK = 4096
_LINE = np.arange(SIDE)
_DCT = np.cos(np.pi * np.arange(N_LOW)[:, None] * (2 * _LINE + 1) / (2 * SIDE))  # (8, 32): first rows of the DCT-II
_WEIGHT = np.sin(np.pi * (_LINE + 0.5) / SIDE)
_SIGNS = (-1.0) ** np.arange(N_LOW, dtype=np.float32)
# a spectrum falls with the frequency, and this makes it flatter
_FLATTER = (np.add.outer(np.arange(N_LOW) ** 2, np.arange(N_LOW) ** 2) ** 0.25).astype(np.float32)


def candidates(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) rows a, (P,) rows b and (P, 2, 3) maps from places in b to places in a; each pair once.

    Places are counted from the middle of a picture, in its sides: -0.5 to 0.5. grey: (N, 32, 32).
    """
    n = len(grey)
    whole = described(grey)
    cells = Cells(whole)
    maps, lists = [], []
    for parts, turns, n_cells, k in (([WHOLE], TURNS, CELLS[0], KEPT[0]), (PARTS, TURNS[:2], CELLS[1], KEPT[1])):
        best = np.zeros((3, 0), np.int64), np.zeros(0, np.float32)
        least = np.full(n, LEAST, np.float32)
        for part in parts:
            low = whole if part == WHOLE else described(grey, part)
            for swapped, down, across in turns:
                query = low.transpose(0, 2, 1) if swapped else low
                query = query * (_SIGNS[:, None] if down else 1) * (_SIGNS if across else 1)
                pairs, likeness = cells.nearest(query, n_cells, least, k)
                pairs = np.vstack([pairs, np.full(len(likeness), len(maps))])
                best = _best(np.hstack([best[0], pairs]), np.concatenate([best[1], likeness]), n, k)
                maps.append(_map(part, swapped, down, across))
                # from here on only what is more alike than the last of k is of interest
                rows = best[0][0]
                last = np.flatnonzero(rows[k - 1 :] == rows[: max(len(rows) - k + 1, 0)]) + k - 1
                least[rows[last]] = best[1][last]
        lists.append(best)
    a, b, number = np.hstack([pairs for pairs, _ in lists])
    order = np.argsort(-np.concatenate([likeness for _, likeness in lists]), kind="stable")
    first = order[np.unique((np.minimum(a, b) * n + np.maximum(a, b))[order], return_index=True)[1]]
    return a[first], b[first], np.array(maps, np.float32)[number[first]]


def described(grey: np.ndarray, part: Part = WHOLE) -> np.ndarray:
    """(N, 8, 8) float32 unit vectors: low frequencies of the weighted part, its weighted mean taken off."""
    *middle, size = part
    tables = []
    for at in middle:
        places = ((_LINE - (SIDE - 1) / 2) * size + (SIDE - 1) / 2 + at * SIDE).clip(0, SIDE - 1)
        interpolated = np.maximum(0, 1 - np.abs(places[:, None] - _LINE))
        tables.append((_DCT @ (_WEIGHT[:, None] * interpolated)).astype(np.float32))
    low = np.empty((len(grey), N_LOW, N_LOW), np.float32)
    for start in range(0, len(grey), BLOCK):
        low[start : start + BLOCK] = tables[1] @ grey[start : start + BLOCK].astype(np.float32) @ tables[0].T
    constant = np.outer(_DCT @ _WEIGHT, _DCT @ _WEIGHT).astype(np.float32)
    low = (low - low[:, :1, :1] * (constant / constant[0, 0])) * _FLATTER
    return low / np.maximum(np.linalg.norm(low, axis=(1, 2), keepdims=True), 1e-6)


class Cells:
    """Descriptions (N, 8, 8), sorted into cells by k-means."""

    def __init__(self, low: np.ndarray):
        self.low = low.reshape(len(low), -1)
        n = max(1, len(low) // IN_CELL)
        sample = self.low[np.random.default_rng(0).permutation(len(low))[: 50 * n]]
        self.centres = sample[:n]
        for _ in range(8):
            sums = [sample[rows].sum(axis=0) for rows in _by_code(_closest(sample, self.centres, 1).ravel(), n)]
            norms = np.linalg.norm(sums, axis=1, keepdims=True)
            self.centres = np.where(norms > 0, np.array(sums) / np.maximum(norms, 1e-6), self.centres)
        self.members = _by_code(_closest(self.low, self.centres, 1).ravel(), n)

    def nearest(self, query: np.ndarray, n_cells: int, least: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(2, M) pairs of a query and another row, and their likeness (the cosine), where it is above least (N,).

        At most k of each cell, as far as they are not equally alike. query: (N, 8, 8).
        """
        query = query.reshape(len(query), -1)
        n_cells = min(n_cells, len(self.centres))
        places = _by_code(_closest(query, self.centres, n_cells).ravel(), len(self.centres))
        pairs, likeness = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.float32)]
        for members, asking in zip(self.members, places, strict=True):
            low = self.low[members].T
            for start in range(0, len(asking) if len(members) else 0, BLOCK):
                rows = asking[start : start + BLOCK] // n_cells
                values = query[rows] @ low
                above = values > least[rows][:, None]
                # to find each row's k best costs more than to look at few too many later
                if k + 1 < len(members) and above.sum() > 3 * k * len(rows):
                    above &= values >= np.partition(values, -k - 1, axis=1)[:, [-k - 1]]
                i, j = np.nonzero(above)
                other = rows[i] != members[j]
                pairs.append(np.stack([rows[i], members[j]])[:, other])
                likeness.append(values[i, j][other])
        return np.hstack(pairs), np.concatenate(likeness)


def _best(pairs: np.ndarray, likeness: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most alike of each row, sorted by row, the most alike first, no other row twice. pairs: (3, M)."""
    order = np.argsort(-likeness, kind="stable")
    first = np.unique((pairs[0] * n + pairs[1])[order], return_index=True)[1]
    order = order[np.sort(first)]
    order = order[np.argsort(pairs[0, order], kind="stable")]
    rows = pairs[0, order]
    order = order[np.arange(len(rows)) - np.searchsorted(rows, rows) < k]
    return pairs[:, order], likeness[order]


def _map(part: Part, swapped: int, down: int, across: int) -> np.ndarray:
    """(2, 3) from places in the turned part to places in the picture."""
    turn = np.diag([1.0 - 2 * across, 1.0 - 2 * down])
    return np.column_stack([part[2] * (turn[::-1] if swapped else turn), part[:2]])


def _closest(low: np.ndarray, centres: np.ndarray, n: int) -> np.ndarray:
    """(N, n) numbers of the closest centres."""
    blocks = [low[start : start + BLOCK] @ -centres.T for start in range(0, len(low), BLOCK)]
    return np.concatenate([np.argpartition(block, n - 1, axis=1)[:, :n] for block in blocks])


def _by_code(codes: np.ndarray, n: int) -> list[np.ndarray]:
    """The places of each of n codes."""
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=n))[:-1])

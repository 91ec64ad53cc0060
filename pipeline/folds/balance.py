"""Shares out groups so that every fold holds its part of everything: of the rows, of each class, of each label part.

In: a vector of counts for each group. Out: a fold for each group. The idea of iterative stratification (Sechidis,
Tsoumakas & Vlahavas 2011: the rarest first, to the fold that lacks it most), on whole groups, followed by a local
search that moves and exchanges groups as long as anything is gained. What is minimised is the chi-square distance from
the ideal, sum of (count - ideal)^2 / ideal, in which a rare class weighs as much as a common one.
"""

import numpy as np

MAX_STEPS = 5_000
CANDIDATES = 200  # of each fold, in the search for an exchange
STARTS = 12  # from different orders; fewer where there are many kinds of groups, and more room to be even anyway


def share_out(vectors: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(G,) fold of each group. vectors: (G, I) counts; shares: (k,) of the whole that each fold is to hold, sum 1.

    Groups with equal vectors are interchangeable, so the search runs over kinds of groups, of which there are few.
    """
    place: dict[bytes, int] = {}  # sorting is for the few kinds alone, not for all groups
    kind_of = np.array([place.setdefault(vector.tobytes(), len(place)) for vector in vectors])
    first = np.unique(kind_of, return_index=True)[1]
    kinds, order = np.unique(vectors[first], axis=0, return_inverse=True)
    kind_of = order.reshape(-1)[kind_of]
    sizes = np.bincount(kind_of)
    best, best_loss = np.zeros(0), np.inf
    for _ in range(STARTS if len(kinds) < 500 else 2 if len(kinds) < 2_000 else 1):
        counts, loss = _search(kinds.astype(float), sizes, shares, rng)
        if loss < best_loss - 1e-9:
            best, best_loss = counts, loss
    folds = np.empty(len(vectors), int)
    for kind in range(len(kinds)):
        members = rng.permutation(np.flatnonzero(kind_of == kind))
        folds[members] = np.repeat(np.arange(len(shares)), best[kind].astype(int))
    return folds


def _search(
    kinds: np.ndarray, sizes: np.ndarray, shares: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """((K, k) how many groups of each kind go to each fold, the distance from the ideal)"""
    ideal = shares[:, None] * (sizes @ kinds)[None]  # (k, I)
    weight = 1 / np.maximum(ideal, 1e-9) * (ideal > 0)
    counts = np.floor(sizes[:, None] * shares[None] + 1e-9)  # what is even anyway
    excess = counts.T @ kinds - ideal
    # the rest one by one: kinds with the largest share of something rare first, ties at random
    rarity = (kinds / np.maximum(sizes @ kinds, 1)).max(axis=1)
    left = np.repeat(np.arange(len(kinds)), (sizes - counts.sum(axis=1)).astype(int))
    left = rng.permutation(left)
    for kind in left[np.argsort(-rarity[left], kind="stable")]:
        gain = ((2 * excess + kinds[kind]) * kinds[kind] * weight).sum(axis=1)
        fold = int(rng.choice(np.flatnonzero(gain <= gain.min() + 1e-9)))
        counts[kind, fold] += 1
        excess[fold] += kinds[kind]
    for _ in range(MAX_STEPS):
        if not (_move(kinds, counts, excess, weight) or _exchange(kinds, counts, excess, weight)):
            break
    return counts, float((excess**2 * weight).sum())


def _changes(kinds: np.ndarray, excess: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((K, k) change of the distance when one group of a kind comes into a fold, when one leaves it)"""
    linear = 2 * kinds @ (excess * weight).T
    square = kinds**2 @ weight.T
    return linear + square, square - linear


def _move(kinds: np.ndarray, counts: np.ndarray, excess: np.ndarray, weight: np.ndarray) -> bool:
    """The best move of one group to another fold, in place; False where none helps."""
    comes, leaves = _changes(kinds, excess, weight)
    leaves = np.where(counts > 0, leaves, np.inf)
    source, target = leaves.argmin(axis=1), comes.argmin(axis=1)
    rows = np.arange(len(kinds))
    change = leaves[rows, source] + comes[rows, target]
    change[source == target] = np.inf
    kind = int(change.argmin())
    if change[kind] > -1e-9:
        return False
    _shift(kinds, counts, excess, kind, int(source[kind]), int(target[kind]))
    return True


def _exchange(kinds: np.ndarray, counts: np.ndarray, excess: np.ndarray, weight: np.ndarray) -> bool:
    """The best exchange of two groups between two folds, in place; False where none helps."""
    comes, leaves = _changes(kinds, excess, weight)
    best, found = -1e-9, None
    k = counts.shape[1]
    for a in range(k):
        for b in range(a + 1, k):
            there, here = np.flatnonzero(counts[:, a] > 0), np.flatnonzero(counts[:, b] > 0)
            forth = leaves[there, a] + comes[there, b]
            back = leaves[here, b] + comes[here, a]
            first, second = np.argsort(forth, kind="stable")[:CANDIDATES], np.argsort(back, kind="stable")[:CANDIDATES]
            one, other = there[first], here[second]
            together = 2 * (kinds[one] * (weight[a] + weight[b])) @ kinds[other].T
            change = forth[first][:, None] + back[second][None] - together
            if change.size and change.min() < best:
                i, j = np.unravel_index(change.argmin(), change.shape)
                best, found = change[i, j], (int(one[i]), int(other[j]), a, b)
    if found is None:
        return False
    one, other, a, b = found
    _shift(kinds, counts, excess, one, a, b)
    _shift(kinds, counts, excess, other, b, a)
    return True


def _shift(kinds: np.ndarray, counts: np.ndarray, excess: np.ndarray, kind: int, source: int, target: int) -> None:
    counts[kind, source] -= 1
    counts[kind, target] += 1
    excess[source] -= kinds[kind]
    excess[target] += kinds[kind]

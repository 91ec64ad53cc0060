"""Two pictures laid on each other, and how much of either the other one leaves unexplained.

In: (P, s, s) or (P, s, s, C) float32 pictures a and b, and (P, 2, 3) affine maps from places in b to places in a, both
counted from the middle in sides of the picture. Alignment is by Gauss-Newton steps of the inverse compositional kind
(Baker & Matthews 2004, "Lucas-Kanade 20 years on"), with gain and offset free.
"""

import cv2
import numpy as np

# the largest change of a map's six numbers: from where a pair starts, and in one step
FARTHEST, STEP = (np.array([[scale, scale, shift]] * 2, np.float32) for scale, shift in ((0.25, 0.15), (0.12, 0.08)))
RIDGE = 2e-4 * np.diag(np.array([4, 4, 0.25, 4, 4, 0.25], np.float32))  # where a picture does not say how it lies
BLOCKS = 8  # along each side
FORGIVEN = BLOCKS**2 // 4


def weight(side: int) -> np.ndarray:
    """(side, side) 1 in the middle, near 0 at the edges, which a crop cuts off."""
    line = np.sin(np.pi * (np.arange(side, dtype=np.float32) + 0.5) / side)
    return np.outer(line, line)


def moved(maps: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(P, 2, 3) maps of places that were first moved by (1 + change)."""
    return maps + maps[:, :, :2] @ change


def seen(pictures: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pictures through the maps, and (P, s, s) whether each place lies inside. P is at most 1,000."""
    n, side = pictures.shape[:2]
    line = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / side
    grid = np.stack(np.broadcast_arrays(line, line[:, None], np.float32(1)), axis=-1).reshape(-1, 3)
    at = grid @ (maps * np.float32(side)).transpose(0, 2, 1)
    inside = np.maximum(np.abs(at[:, :, 0]), np.abs(at[:, :, 1])) < side / 2
    at += np.float32((side - 1) / 2)
    # all pictures in one, on top of each other: one call
    at[:, :, 1] = at[:, :, 1].clip(0, side - 1) + side * np.arange(n, dtype=np.float32)[:, None]
    tall = pictures.reshape(n * side, *pictures.shape[2:])
    out = cv2.remap(tall, at.reshape(n * side, side, 2), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # ty: ignore
    return out.reshape(pictures.shape), inside.reshape(n, side, side)


def aligned(a: np.ndarray, b: np.ndarray, start: np.ndarray, change: np.ndarray, steps: int) -> np.ndarray:
    """(P, 2, 3) change, refined so that a through `moved(start, change)` is gain * b + offset. a, b: (P, s, s)."""
    n, side = b.shape[:2]
    w = weight(side).ravel() / weight(side).sum()
    line = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / side
    slope = np.empty((n, 2, 3, side, side), np.float32)
    for axis, gradient in enumerate(_gradients(b)):
        np.multiply(gradient, side / 2, out=slope[:, axis, 2])
        np.multiply(slope[:, axis, 2], line, out=slope[:, axis, 0])
        np.multiply(slope[:, axis, 2], line[:, None], out=slope[:, axis, 1])
    slope = slope.reshape(n, 6, -1)
    b = b.reshape(n, -1)
    b = b - (b @ w)[:, None]
    energy = np.maximum((b * b) @ w, 1e-6)[:, None]
    weighted = slope * w
    mean, along = weighted.sum(axis=2), (weighted @ b[:, :, None])[:, :, 0]
    # what an offset and a gain explain is no movement
    curvature = weighted @ slope.transpose(0, 2, 1) - mean[:, :, None] * mean[:, None]
    curvature -= along[:, :, None] * (along / energy)[:, None]
    weighted -= mean[:, :, None] * w + (along / energy)[:, :, None] * (b * w)[:, None]
    inverse = np.linalg.inv(curvature + RIDGE * (np.trace(curvature, axis1=1, axis2=2) + 1e-3)[:, None, None])
    for _ in range(steps):
        x, inside = seen(a, moved(start, change))
        x, inside = x.reshape(n, -1), inside.reshape(n, -1)
        visible = inside * w
        total = np.maximum(visible.sum(axis=1, keepdims=True), 1e-6)
        x -= (x * visible).sum(axis=1, keepdims=True) / total
        y = b - (b * visible).sum(axis=1, keepdims=True) / total
        gain = ((y * y * visible).sum(axis=1) + 1e-6) / ((x * x * visible).sum(axis=1) + 1e-6)
        x *= np.sqrt(gain)[:, None]
        x -= y
        x *= inside
        step = (inverse @ (weighted @ x[:, :, None])).reshape(n, 2, 3).clip(-STEP, STEP)
        change = (change - step - change[:, :, :2] @ step).clip(-FARTHEST, FARTHEST)
    return change


def unexplained(a: np.ndarray, b: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """(P,) share of the gradients' energy that neither picture's gain explains of the other, the worse way round.

    The quarter of the blocks that fits worst is forgiven as far as only one picture has something there: a caption or a
    frame lies on a copy, and a look-alike differs in what both show. 0: equal but for brightness and contrast.
    """
    n, side = b.shape[:2]
    a, inside = seen(a, maps)
    a, b = (np.moveaxis(x.reshape(n, side, side, -1), 3, 1) for x in (a, b))
    n_channels = a.shape[1]
    inner = weight(side)
    inner[[0, -1]] = inner[:, [0, -1]] = 0
    block = np.arange(side) * BLOCKS // side
    pool = inner.reshape(-1, 1) * (np.add.outer(block * BLOCKS, block).reshape(-1, 1) == np.arange(BLOCKS**2))
    (ax, ay), (bx, by) = (_gradients(np.ascontiguousarray(x).reshape(-1, side, side)) for x in (a, b))
    visible = np.repeat(inside, n_channels, axis=0)
    ax *= visible
    ay *= visible
    products = (ax * ax + ay * ay, (bx * bx + by * by) * visible, ax * bx + ay * by)
    aa, bb, ab = (((x.reshape(len(x), -1) @ pool).reshape(n, n_channels, -1)) for x in products)
    kept = np.ones((n, BLOCKS**2), np.float32)
    in_a, in_b = (np.maximum(x.sum(axis=1), 1e-6) for x in (aa, bb))
    for forgiving in (True, False):
        sum_a, sum_b, both = (np.einsum("pk,pck->pc", kept, x)[:, :, None] for x in (aa, bb, ab))
        gain_b, gain_a = (np.maximum(both, 0) / np.maximum(x, 1e-6) for x in (sum_b, sum_a))
        left_a = (aa - 2 * gain_b * ab + gain_b**2 * bb).sum(axis=1)
        left_b = (bb - 2 * gain_a * ab + gain_a**2 * aa).sum(axis=1)
        if forgiving:
            misfit = left_a / in_a.sum(axis=1, keepdims=True) + left_b / in_b.sum(axis=1, keepdims=True)
            last = BLOCKS**2 - FORGIVEN - 1
            kept = (misfit <= np.partition(misfit, last, axis=1)[:, [last]]).astype(np.float32)
    ways = ((left_a, in_a), (left_b, in_b))
    misfits = [(kept * left).sum(axis=1) / np.maximum((kept * own).sum(axis=1), 1e-6) for left, own in ways]
    lost = [((1 - kept) * np.minimum(left, own)).sum(axis=1) / own.sum(axis=1) for left, own in ways]
    return np.maximum(*misfits) + np.minimum(*lost)


def _gradients(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences across and down, twice the slope, 0 at the edges. x: (P, s, s)."""
    across, down = np.zeros_like(x), np.zeros_like(x)
    np.subtract(x[:, 1:-1, 2:], x[:, 1:-1, :-2], out=across[:, 1:-1, 1:-1])
    np.subtract(x[:, 2:, 1:-1], x[:, :-2, 1:-1], out=down[:, 1:-1, 1:-1])
    return across, down

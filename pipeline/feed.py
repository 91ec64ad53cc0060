"""Effective batches, made ahead of the model by a few threads.

In: the order of an epoch and the pixels of each row. Out: one `Window` an optimizer step, with its images warped and
still uint8, so that a copy to a device moves a quarter of the bytes. Nothing here is random: everything is a function
of the rows and their draws, so the number of threads changes nothing but the time.
"""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.augment import (
    COLUMN,
    Mix,
    draw_mix,
    draws,
    erase,
    maps,
    moves,
    recolour,
    recolours,
    soften,
    warp,
)
from pipeline.config.data import Preprocessing
from pipeline.config.training import Augment

CHUNK = 16  # images a task: enough to hide what a task costs, few enough to share out one batch


@dataclass(frozen=True)
class Window:
    """What one optimizer step sees: `len(rows)` images, in micro-batches of at most `batch_size`."""

    rows: np.ndarray  # (W,) indices of training rows
    images: torch.Tensor  # (W, px, px, C) uint8
    mix: Mix | None
    starts: list[int]  # of the micro-batches

    def parts(self) -> list[slice]:
        return [slice(a, b) for a, b in zip(self.starts, [*self.starts[1:], len(self.rows)], strict=True)]


def window_rows(order: np.ndarray, batch_size: int, accumulation: int) -> list[tuple[np.ndarray, list[int]]]:
    """`order` cut into windows of at most `accumulation` batches, each with the places where its batches start.

    The last window may be shorter. A last batch of one row joins the batch before it: BatchNorm cannot normalise over
    a single value.
    """
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], len(order)]
    windows = []
    for i in range(0, len(starts), accumulation):
        first, last = starts[i], ends[min(i + accumulation, len(starts)) - 1]
        windows.append((order[first:last], [start - first for start in starts[i : i + accumulation]]))
    return windows


def feed(
    windows: list[tuple[np.ndarray, list[int]]],
    images: torch.Tensor,
    pixels: Callable[[int], np.ndarray],
    keys: np.ndarray,
    seed: int,
    epoch: int,
    settings: Augment,
    spec: Preprocessing,
    device: torch.device,
    mixing: bool = True,
) -> Generator[Window]:
    """Yields every window in order, made up to a few ahead.

    images: (N, px, px, C) uint8 as validation sees them, which is also what training sees where nothing moves.
    pixels: a row's whole image, (h, w, 1 or 3) uint8. keys: (N,), see `augment.image_keys`.
    """
    n_threads = min(8, os.cpu_count() or 1) if device.type == "cuda" else max(1, (os.cpu_count() or 1) // 2)
    ahead = max(2, -(-n_threads * CHUNK // max(len(windows[0][0]), 1)) + 1)
    seen: dict[int, int] = {}  # how often each row came, where a sampler repeats rows

    def fill(out: np.ndarray, rows: np.ndarray, uniform: np.ndarray) -> None:
        if not moves(settings):
            out[:] = images[rows].numpy()
        else:
            sources = [pixels(int(row)) for row in rows]
            sizes = np.array([source.shape[:2] for source in sources])
            for i, matrix in enumerate(maps(sizes, uniform, settings, spec)):
                out[i] = warp(sources[i], matrix, settings, spec)
        for i in np.flatnonzero(uniform[:, COLUMN["blur"]] < settings.blur):
            out[i] = soften(out[i], float(uniform[i, COLUMN["blur"]]) / settings.blur)
        if recolours(settings):
            recolour(out, uniform, settings)
        if settings.erase:
            erase(out, uniform, settings, spec)

    def begin(rows: np.ndarray, starts: list[int], pool: ThreadPoolExecutor) -> tuple[Window, list[Future]]:
        times = np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows.tolist()):
            times[i] = seen.get(row, 0)
            seen[row] = int(times[i]) + 1
        uniform = draws(seed, epoch, keys[rows], times)
        pinned = device.type == "cuda"
        out = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        cuts = [slice(i, i + CHUNK) for i in range(0, len(rows), CHUNK)]
        tasks = [pool.submit(fill, out[cut].numpy(), rows[cut], uniform[cut]) for cut in cuts]
        mix = draw_mix(uniform, settings) if mixing else None
        return Window(rows, out, mix, starts), tasks

    with ThreadPoolExecutor(n_threads, thread_name_prefix="feed") as pool:
        under_way: deque[tuple[Window, list[Future]]] = deque()
        try:
            for rows, starts in windows:
                under_way.append(begin(rows, starts, pool))
                if len(under_way) > ahead:
                    yield _finished(*under_way.popleft())
            while under_way:
                yield _finished(*under_way.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(window: Window, tasks: list[Future]) -> Window:
    for task in tasks:
        task.result()
    return window

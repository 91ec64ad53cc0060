"""Many rows through many models, each row's image read once for all of them.

In: models that share a preprocessing, and a way to load some rows. Out: the outputs of each model, part by part, so
that a caller can keep what is done. While a part is predicted the next one is loaded.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.ensemble.combine import Average, settled, spread
from pipeline.infer import Loaded
from pipeline.predict import batch_size_for, predict
from pipeline.views import Place, View, by_place

PART = 1024  # rows that are predicted, and kept, at once


@dataclass(frozen=True)
class Part:
    """Rows from `start` to `stop`, and which of the models are to see them."""

    start: int
    stop: int
    models: tuple[int, ...]


def part_size(px: int, device: torch.device) -> int:
    """Rows of a part: whole batches of `predict`, so that cutting rows into parts moves no bit."""
    return max(PART, batch_size_for(px, device))


def stream(
    models: Mapping[int, Loaded],
    load: Callable[[int, int, Place], np.ndarray],
    parts: Sequence[Part],
    views: Sequence[View],
    average: Average,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> Generator[tuple[Part, dict[int, np.ndarray]]]:
    """(part, model -> (rows, n_outputs) float32), the views averaged: their probabilities, or with `logits` those.

    models: of one preprocessing, by the numbers that parts name them by. load: (start, stop, place) ->
    (rows, px, px, C) uint8. advance: told how many more images a model has seen.
    """
    how: Average = "logits" if average == "logits" else "probs"
    places = by_place(views)
    steps = [(part, place) for part in parts for place in places]
    sums: dict[int, np.ndarray] = {}
    with ThreadPoolExecutor(1) as ahead:
        under_way = ahead.submit(load, steps[0][0].start, steps[0][0].stop, steps[0][1]) if steps else None
        for i, (part, place) in enumerate(steps):
            assert under_way is not None
            images = torch.from_numpy(under_way.result())
            if i + 1 < len(steps):
                following, next_place = steps[i + 1]
                under_way = ahead.submit(load, following.start, following.stop, next_place)
            if i % len(places) == 0:
                sums = {}
            for number in part.models:
                model, info = models[number]
                spec = place.spec(info.preprocessing)
                for view in places[place]:
                    outputs = predict(model, info.task, images, spec, device, view)
                    if len(views) == 1:
                        sums[number] = outputs
                    else:
                        of_view = spread(outputs, how, info.task.kind) / len(views)
                        sums[number] = sums[number] + of_view if number in sums else of_view
                    advance(len(images))
            if (i + 1) % len(places) == 0:
                kinds = {number: models[number][1].task.kind for number in part.models}
                yield (
                    part,
                    {
                        number: sums[number]
                        if len(views) == 1
                        else settled(sums[number], how, kinds[number]).astype("f4")
                        for number in part.models
                    },
                )

"""The folds' models as one: images in, outputs out, for the submission and for a model that is served.

In: checkpoints, and images of a competition or image files that nobody has seen before. Out: (N, n_outputs) means of
the folds' outputs.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.images.decode import Unreadable
from pipeline.images.load import load_one
from pipeline.images.store import Side
from pipeline.model import CheckpointInfo, load_checkpoint
from pipeline.predict import predict
from pipeline.receipts import sha256

Loaded = tuple[torch.nn.Module, CheckpointInfo]
THREADS = 4  # that decode at once
SHOWN_ROWS = 5  # of those that cannot be read


def mean_outputs(
    models: Iterable[Loaded], images_for: Callable[[Preprocessing], torch.Tensor], device: torch.device
) -> np.ndarray:
    """(N, n_outputs) float32, the mean over the models. Each sees the images through its own preprocessing."""
    images, spec, outputs = None, None, []
    for model, info in models:
        if images is None or info.preprocessing != spec:
            spec = info.preprocessing
            images = images_for(spec)
        outputs.append(predict(model, info.task, images, spec, device))
    return np.mean(outputs, axis=0)


class Ensemble:
    """Every fold's model in memory, for image files from anywhere.

    side: of the image store that the models were trained from, so that they see what they learnt from.
    """

    def __init__(self, checkpoints: Sequence[Path], device: torch.device, side: Side):
        self.models = [load_checkpoint(path, device) for path in checkpoints]
        self.device, self.side = device, side
        self.task = self.models[0][1].task
        for path, (_, info) in zip(checkpoints, self.models, strict=True):
            if (info.task.kind, info.task.classes) != (self.task.kind, self.task.classes):
                found = f"answers otherwise than {checkpoints[0].name} ({info.task.kind} of {info.task.classes})"
                valid = f"valid: {self.task.kind} of {self.task.classes}"
                raise Mistakes([Mistake(shown(path), found, valid, "foreign artifacts")])

    def outputs(self, sources: Sequence[str | bytes]) -> np.ndarray:
        """(N, n_outputs) float32. sources: paths, or image files' bytes. Raises `Unreadable` naming the bad rows."""
        if not sources:
            return np.empty((0, self.task.n_outputs), np.float32)
        return mean_outputs(self.models, lambda spec: torch.from_numpy(self._images(sources, spec)), self.device)

    def _images(self, sources: Sequence[str | bytes], spec: Preprocessing) -> np.ndarray:
        def load(source: str | bytes) -> np.ndarray | Unreadable:
            file = source if isinstance(source, str) else BytesIO(source)
            try:
                return load_one(file, spec, self.side)
            except Unreadable as error:
                return Unreadable(str(error).replace(repr(file), "of these bytes")) if file is not source else error

        with ThreadPoolExecutor(THREADS) as pool:
            loaded = list(pool.map(load, sources))
        bad = [f"row {row}: {result}" for row, result in enumerate(loaded) if isinstance(result, Unreadable)]
        if bad:
            more = f"; and {len(bad) - SHOWN_ROWS} more rows" if len(bad) > SHOWN_ROWS else ""
            raise Unreadable(f"no whole image: {'; '.join(bad[:SHOWN_ROWS])}{more}")
        return np.stack([image for image in loaded if not isinstance(image, Unreadable)])


def refuse_altered(path: Path, recorded: str) -> None:
    """Raises `Mistakes` where the checkpoint is not the one that was packaged; weights have no checksum themselves."""
    if (found := sha256(path)) != recorded:
        what = f"has hash {found[:16]}, and was packaged with {recorded[:16]}"
        raise Mistakes([Mistake(path.name, what, "valid: the checkpoint as it was trained", "foreign artifacts")])

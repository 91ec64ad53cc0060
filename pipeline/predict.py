"""The one way from images to outputs: validation, out-of-fold and test all come through here."""

import numpy as np
import torch

from pipeline.augment import Normalise
from pipeline.config.data import Preprocessing
from pipeline.model import is_channels_last
from pipeline.task import Task
from pipeline.views import PLAIN, View

PIXELS = 256 * 224**2  # in one batch on a GPU, which small images would else leave waiting for its host
LARGEST = 4096  # images in it


@torch.inference_mode()  # no graph is kept, and autograd cannot be switched on by mistake inside
def predict(
    model: torch.nn.Module,
    task: Task,
    images: torch.Tensor,
    spec: Preprocessing,
    device: torch.device,
    view: View = PLAIN,
) -> np.ndarray:
    """(N, n_outputs) float32, rows as in `images`: (N, H, W, channels) uint8, made by `load_images` with `spec`.

    view: how each image is turned on the device. The model is put into evaluation mode (dropout off, BatchNorm by its
    running statistics) and stays there. Always in float32, whatever it was trained in, and in batches whose size the
    image's alone decides, so that the same rows give the same bits in validation and in a later command; only where
    the memory does not suffice, with half of it, and so on.
    """
    model.eval()
    normalise = Normalise(spec, device, is_channels_last(model))
    batch_size = batch_size_for(images.shape[1], device)
    while True:
        try:
            parts = [
                task.outputs(model(view.turned(normalise(part.to(device, non_blocking=True)))))
                for part in images.split(batch_size)
            ]
            if not parts:
                return np.empty((0, task.n_outputs), np.float32)
            return torch.cat(parts).float().cpu().numpy()  # one copy to the host, at the end
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2
        torch.cuda.empty_cache()


def batch_size_for(px: int, device: torch.device) -> int:
    """Images of side px in a batch; on a CPU more than these are no faster, and take memory."""
    if device.type == "cpu":
        return 256
    return 2 ** min(LARGEST.bit_length() - 1, max(0, (PIXELS // px**2).bit_length() - 1))

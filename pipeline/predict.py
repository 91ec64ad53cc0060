"""The one way from images to outputs: validation, out-of-fold and test all come through here."""

import numpy as np
import torch

from pipeline.augment import Normalise
from pipeline.config.data import Preprocessing
from pipeline.model import is_channels_last
from pipeline.task import Task


@torch.inference_mode()  # no graph is kept, and autograd cannot be switched on by mistake inside
def predict(
    model: torch.nn.Module,
    task: Task,
    images: torch.Tensor,
    spec: Preprocessing,
    device: torch.device,
    batch_size: int = 256,
) -> np.ndarray:
    """(N, n_outputs) float32, rows as in `images`: (N, H, W, channels) uint8, made by `load_images` with `spec`.

    The model is put into evaluation mode (dropout off, BatchNorm by its running statistics) and stays there. Always in
    float32, whatever it was trained in, and with a fixed batch size, so that the same rows give the same bits in
    validation and in a later command; only where the memory does not suffice for it, with half of it, and so on.
    """
    model.eval()
    normalise = Normalise(spec, device, is_channels_last(model))
    while True:
        try:
            parts = [task.outputs(model(normalise(p.to(device, non_blocking=True)))) for p in images.split(batch_size)]
            return torch.cat(parts).float().cpu().numpy()  # one copy to the host, at the end
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2
        torch.cuda.empty_cache()

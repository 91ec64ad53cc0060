"""The one way from images to probabilities: validation, out-of-fold and test all come through here."""

import numpy as np
import torch

from pipeline.augment import Normalise
from pipeline.config.data import Preprocessing


@torch.inference_mode()  # no graph is kept, and autograd cannot be switched on by mistake inside
def predict_probs(
    model: torch.nn.Module, images: torch.Tensor, spec: Preprocessing, device: torch.device, batch_size: int = 256
) -> np.ndarray:
    """(N, C) float32 probabilities, rows as in `images`: (N, H, W, channels) uint8, made by `load_images` with `spec`.

    The model is put into evaluation mode (dropout off, BatchNorm by its running statistics) and stays there. The
    batch size is fixed so that the same rows give the same bits in validation and in a later command.
    """
    model.eval()
    normalise = Normalise(spec, device)
    parts = [model(normalise(part.to(device, non_blocking=True))).softmax(dim=1) for part in images.split(batch_size)]
    return torch.cat(parts).float().cpu().numpy()  # one copy to the host, at the end

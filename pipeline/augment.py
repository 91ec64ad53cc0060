"""Preprocessing of batches on the device: random for training, fixed for everything else.

Randomness is a pure function of (seed, epoch, image): the same image is changed in the same way whatever the batch
size, the order, the number of workers or the epoch a run was resumed at. In: uint8 images (B, H, W, C). Out: float
images (B, C, H, W), normalised as the model's specification says.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config.data import Preprocessing
from pipeline.config.settings import Augment

N_DRAWS = 5  # angle, scale, shift in x, shift in y, flip
PADDING = {"black": "zeros", "edge": "border", "mirror": "reflection"}


def image_keys(image_ids: Sequence[str]) -> np.ndarray:
    """(N,) uint64: a number for each id that depends on nothing but the id."""
    digests = (hashlib.blake2b(image_id.encode(), digest_size=8).digest() for image_id in image_ids)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def draws(seed: int, epoch: int, keys: np.ndarray) -> np.ndarray:
    """(B, N_DRAWS) float32, uniform in [0, 1), a function of (seed, epoch, key, column).

    A counter-based generator: the mixing function of SplitMix64 (Steele, Lea & Flood 2014), applied to each counter.
    """
    state = _mix(np.uint64(seed) ^ _mix(np.full(1, epoch, np.uint64)))
    state = _mix(state ^ keys)[:, None]
    bits = _mix(state + np.arange(1, N_DRAWS + 1, dtype=np.uint64))
    return ((bits >> np.uint64(40)) * np.float32(2**-24)).astype(np.float32)  # 24 bits: what a float32 holds


def _mix(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around silently, which is meant
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Normalise:
    """uint8 or float (B, H, W, C) in 0..255 to float32 (B, C, H, W) with the specification's mean and std.

    The two constants go to the device once: a copy per batch would make the host wait for the device each time.
    """

    def __init__(self, spec: Preprocessing, device: torch.device):
        self.mean = torch.tensor(spec.mean, device=device) * 255
        self.std = torch.tensor(spec.std, device=device) * 255

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def augment(images: torch.Tensor, uniform: torch.Tensor, settings: Augment) -> torch.Tensor:
    """Rotates, scales, shifts and mirrors each image in one resampling. uint8 (B, H, W, C) to float (B, H, W, C).

    uniform: (B, N_DRAWS) from `draws`. One warp for all changes blurs once; four in a row would blur four times.
    """
    if not (settings.rotate_deg or settings.scale or settings.shift or settings.flip):
        return images.float()
    signed = uniform * 2 - 1
    angle = signed[:, 0] * (settings.rotate_deg * torch.pi / 180)
    zoom = 1 / (1 + signed[:, 1] * settings.scale)  # the warp maps output to input, so it is the inverse that counts
    shift = signed[:, 2:4] * (settings.shift * 2)  # the image spans -1..1
    mirror = torch.where(uniform[:, 4] < settings.flip, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    warp = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    batch = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(warp, list(batch.shape), align_corners=False)
    padding = PADDING[settings.fill]
    warped = F.grid_sample(batch, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return warped.permute(0, 2, 3, 1)

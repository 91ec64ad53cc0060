"""Loss functions, by the name in the settings.

Each takes logits (B, C) and targets (B,) and returns one value a row, (B,): the loop divides by the rows of the whole
effective batch, which no loss can know, so a loss must not average on its own.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from pipeline.config.settings import CrossEntropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_loss(settings: CrossEntropy) -> Loss:
    """Cross entropy, with label smoothing (Szegedy et al. 2016, arXiv 1512.00567) where the setting is above 0."""
    return partial(F.cross_entropy, reduction="none", label_smoothing=settings.label_smoothing)

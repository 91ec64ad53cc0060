"""Running averages of a model's weights: exponential over steps (EMA), or plain over the last epochs (SWA)."""

import copy

import torch


class Average:
    """A second model, in evaluation mode, that follows the first. BatchNorm's statistics are averaged like weights.

    EMA: Polyak & Juditsky 1992. SWA: Izmailov et al. 2018, arXiv 1803.05407 (which sets BatchNorm's statistics by one
    more pass over the data; their average serves as well and costs nothing).
    """

    def __init__(self, model: torch.nn.Module):
        self.module = copy.deepcopy(model).eval()
        self.module.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: torch.nn.Module, share: float) -> None:
        """Moves by `share` (0 to 1) of the way to the model as it is now."""
        mine, theirs = list(self.module.state_dict().values()), list(model.state_dict().values())
        moving = [i for i, tensor in enumerate(mine) if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[i] for i in moving], [theirs[i] for i in moving], share)
        for own, other in zip(mine, theirs, strict=True):
            if not own.is_floating_point():  # BatchNorm's count of batches
                own.copy_(other)


def ema_share(step: int, decay: float) -> float:
    """How far step `step` (1, 2, ...) moves it: `1 - decay`, and more at first, when there is little to average.

    The warm-up of TensorFlow's ExponentialMovingAverage.
    """
    return 1 - min(decay, (1 + step) / (10 + step))

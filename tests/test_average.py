"""Running averages of weights against torch's own."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.average import Average, ema_share


def models():
    """A model whose weights and running statistics wander."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    yield model
    for _ in range(5):
        model(torch.randn(8, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        yield model


def test_an_exponential_average_is_torchs():
    wander = models()
    model = next(wander)
    mine = Average(model)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # torch's first update copies
    for moved in wander:
        mine.update(moved, 0.1)
        theirs.update_parameters(moved)
    for a, b in zip(mine.module.parameters(), theirs.module.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not mine.module.training and not any(p.requires_grad for p in mine.module.parameters())


def test_a_plain_average_is_torchs_and_counts_running_statistics():
    wander = models()
    model = next(wander)
    mine, theirs = Average(model), AveragedModel(model, use_buffers=True)
    for n, moved in enumerate(wander, start=1):
        mine.update(moved, 1 / n)
        theirs.update_parameters(moved)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(mine.module.state_dict()[name], value, atol=1e-5), name
    assert mine.module[1].num_batches_tracked == model[1].num_batches_tracked


def test_it_moves_faster_at_first():
    shares = [ema_share(step, 0.99) for step in (1, 2, 10, 1000, 10_000)]
    assert shares == pytest.approx([1 - 2 / 11, 1 - 3 / 12, 1 - 11 / 20, 0.01, 0.01])

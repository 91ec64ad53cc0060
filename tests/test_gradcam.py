"""Grad-CAM, judged by maps worked out by hand and by squares that decide the class."""

import numpy as np
import pytest
import timm
import torch

from pipeline.config.data import Preprocessing
from pipeline.gradcam import evidence, grad_cam
from pipeline.task import Task

CPU = torch.device("cpu")


def spec_of(px: int, mode: str = "L") -> Preprocessing:
    values = (0.5,) * (3 if mode == "RGB" else 1)
    return Preprocessing.model_validate(
        {"mode": mode, "px": px, "crop": 1.0, "interpolation": "bicubic", "mean": values, "std": values}
    )


def task_of(n_classes: int, link: str = "softmax", kind: str = "class", **more) -> Task:
    return Task(kind=kind, link=link, classes=tuple(map(str, range(n_classes))), **more)  # ty: ignore[invalid-argument-type]


class Linear(torch.nn.Module):
    """One value a pixel and channel, averaged and weighed: its Grad-CAM is the weighted sum of the channels."""

    def __init__(self, layout: str):
        super().__init__()
        self.layout, self.num_features, self.output_fmt = layout, 8, "NHWC" if layout == "NHWC" else "NCHW"
        self.num_prefix_tokens = 2
        self.conv, self.head = torch.nn.Conv2d(1, 8, 1), torch.nn.Linear(8, 3)

    def forward_features(self, x):
        x = self.conv(x)
        if self.layout == "tokens":
            tokens = x.flatten(2).transpose(1, 2)
            return torch.cat([torch.ones(len(x), 2, 8), tokens], dim=1)
        return x.permute(0, 2, 3, 1) if self.layout == "NHWC" else x

    def forward_head(self, x):
        if self.layout == "tokens":
            return self.head(x[:, 2:].mean(dim=1))
        return self.head(x.mean(dim=(1, 2) if self.layout == "NHWC" else (2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_a_map_worked_out_by_hand(layout):
    torch.manual_seed(0)
    model, rng = Linear(layout), np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)  # more than a batch
    classes = rng.integers(0, 3, 20)
    heats, why = grad_cam(model, task_of(3), torch.from_numpy(images), spec_of(8), CPU, classes)
    kernel, bias, head = (p.detach().numpy() for p in (model.conv.weight, model.conv.bias, model.head.weight))
    channels = (images / 255 - 0.5) / 0.5 * kernel[:, 0, 0, 0] + bias  # (20, 8, 8, 8)
    expect = np.einsum("nhwc,nc->nhw", channels, head[classes]).clip(min=0)
    expect /= expect.max(axis=(1, 2), keepdims=True).clip(min=1e-30)
    assert heats is not None and heats.dtype == np.float32 and not why
    np.testing.assert_allclose(heats, expect, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "px"),
    [
        *(
            ("test_resnet", 64),
            ("test_vit", 160),
            ("test_vit2", 160),
            ("test_efficientnet", 128),
            ("test_convnext", 96),
        ),
        *(("test_byobnet", 160), ("mobilenetv3_small_100", 224), ("mambaout_femto", 128)),
    ],
)
def test_networks_of_all_layouts_have_maps_and_are_left_as_they_were(name, px):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).train()
    next(model.children()).eval()  # modes of its own for some
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = torch.randint(0, 256, (3, px, px, 3), dtype=torch.uint8)
    with torch.no_grad():
        heats, why = grad_cam(model, task_of(3), images, spec_of(px, "RGB"), CPU, np.arange(3))
    assert heats is not None and not why
    assert heats.shape == (3, px, px) and heats.min() >= 0 and heats.any()
    assert set(heats.max(axis=(1, 2)).round(5)) <= {0, 1}
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    first, *others = model.parameters()
    assert first.grad is not None and first.grad.min() == first.grad.max() == 1
    assert all(p.grad is None and not p.requires_grad for p in others)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_class_token_takes_the_map_before_the_last_block():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3).eval()
    images = torch.randint(0, 256, (1, 160, 160, 3), dtype=torch.uint8)
    heats, _ = grad_cam(model, task_of(3), images, spec_of(160, "RGB"), CPU, np.array([1]))
    tokens: list[torch.Tensor] = []
    model.blocks[-1].register_forward_pre_hook(lambda _module, inputs: tokens.append(inputs[0]))
    score = model((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)[0, 1]
    [gradient] = torch.autograd.grad(score, tokens[0])
    cells = (tokens[0][0, 1:] @ gradient[0, 1:].mean(dim=0)).relu().reshape(1, 1, 10, 10)
    expect = torch.nn.functional.interpolate(cells, size=160, mode="bilinear").detach().numpy()[0]
    assert heats is not None
    np.testing.assert_allclose(heats, expect / expect.max(), atol=1e-4)


def test_what_cannot_work_says_why():
    def ask(model, px):
        images = torch.zeros(2, px, px, 3, dtype=torch.uint8)
        return grad_cam(model, task_of(3), images, spec_of(px, "RGB"), CPU, np.zeros(2))

    assert ask(torch.nn.Flatten(), 8) == (None, "Flatten has no forward_features and no forward_head")
    small = ask(timm.create_model("test_resnet", num_classes=3), 4)
    assert small == (None, "the answer depends on no feature map of 4 x 4 cells or more at 4 px")
    model = timm.create_model("test_vit", num_classes=3).train()
    heats, why = ask(model, 100)
    assert heats is None and "Assertion" in why and "\n" not in why
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_no_images_have_no_heats():
    heats, why = grad_cam(Linear("NCHW"), task_of(3), torch.zeros(0, 8, 8, 1), spec_of(8), CPU, np.zeros(0))
    assert heats is not None and heats.shape == (0, 8, 8) and not why


TASKS = [
    task_of(4),
    task_of(4, "one_vs_all"),
    task_of(4, "sigmoid", "multilabel"),
    task_of(4, "corn", "ordinal"),
    task_of(4, "parts", parts=((0, 0, 1, 1), (0, 1, 0, 1))),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.link)
def test_evidence_pulls_where_the_probability_does_and_does_not_saturate(task):
    torch.manual_seed(0)
    classes = torch.arange(4)
    for size in (1.0, 300.0):
        logits = (size * torch.randn(4, task.n_logits)).requires_grad_()
        [pull] = torch.autograd.grad(evidence(task, logits, classes).sum(), logits)
        assert pull.any(dim=1).all()
        if size == 1:
            chosen = task.outputs(logits)[torch.arange(4), classes].log().sum()
            [true_pull] = torch.autograd.grad(chosen, logits)
            assert torch.equal(pull[pull != 0].sign(), true_pull[pull != 0].sign())


def test_of_classes_in_softmax_and_parts_evidence_differs_as_log_probabilities_do():
    for task in (TASKS[0], TASKS[4]):
        logits = torch.randn(1, task.n_logits).expand(4, -1)
        found = evidence(task, logits, torch.arange(4))
        log_probs = task.outputs(logits[:1]).log()[0]
        torch.testing.assert_close(found - found[0], log_probs - log_probs[0])


def test_a_number_is_its_own_evidence():
    task = task_of(0, "number", "regression")
    assert evidence(task, torch.tensor([[2.0], [3.0]]), torch.zeros(2, dtype=torch.long)).tolist() == [2, 3]


def squares(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise of 64 px, in half of the images with a bright square; (images, classes, top left corners)."""
    images = rng.integers(0, 100, (n, 64, 64, 1), dtype=np.uint8)
    classes, corners = np.arange(n) % 2, rng.integers(0, 48, (n, 2))
    for image, (y, x) in zip(images[1::2], corners[1::2], strict=True):
        image[y : y + 16, x : x + 16] = 255
    return images, classes, corners


def test_a_bright_square_that_decides_the_class_gets_the_heat():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        images, classes, _ = squares(32, rng)
        inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        loss = torch.nn.functional.cross_entropy(model(inputs), torch.from_numpy(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, classes, corners = squares(60, rng)
    heats, why = grad_cam(model, task_of(2), torch.from_numpy(images), spec_of(64), CPU, classes)
    assert heats is not None, why
    near = 0
    for heat, (y, x) in zip(heats[1::2], corners[1::2], strict=True):
        top, left = np.unravel_index(heat.argmax(), heat.shape)
        near += max(abs(top - y - 8), abs(left - x - 8)) <= 16  # a cell of the map has 16 px
    assert near >= 27, f"{near} of 30"

"""What a model is to answer, and how its logits become that answer.

A `Task` travels in the checkpoint, so that inference turns logits into outputs exactly as validation did. Outputs are
(B, C) probabilities, or (B, 1) numbers for regression; `metrics` decides from them.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F

Kind = Literal["class", "multilabel", "ordinal", "regression"]
Link = Literal["softmax", "one_vs_all", "sigmoid", "corn", "parts", "number"]


@dataclass(frozen=True)
class Task:
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    # of a label in parts: for each part, which of its values each class has
    parts: tuple[tuple[int, ...], ...] = ()
    mean: float = 0.0  # of the training targets of a regression, which the model sees standardised
    std: float = 1.0

    @property
    def part_sizes(self) -> tuple[int, ...]:
        return tuple(max(values) + 1 for values in self.parts)

    @property
    def n_logits(self) -> int:
        of_link = {"corn": len(self.classes) - 1, "parts": sum(self.part_sizes), "number": 1}
        return of_link.get(self.link, len(self.classes))

    @property
    def n_outputs(self) -> int:
        return 1 if self.kind == "regression" else len(self.classes)

    def fitted(self, targets: torch.Tensor) -> "Task":
        """With the mean and spread of these targets, where the task is a regression: those of the rows trained on."""
        if self.kind != "regression":
            return self
        values = targets.double()
        return replace(self, mean=float(values.mean()), std=max(float(values.std(correction=0)), 1e-12))

    def outputs(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (B, n_logits) -> (B, n_outputs), float32."""
        logits = logits.float()
        if self.link == "softmax":
            return logits.softmax(dim=1)
        if self.link == "one_vs_all":
            each = logits.sigmoid()
            return each / each.sum(dim=1, keepdim=True).clamp_min(torch.finfo(each.dtype).tiny)
        if self.link == "sigmoid":
            return logits.sigmoid()
        if self.link == "corn":
            # logit k says P(y > k | y >= k), so that their products fall with k whatever the network says:
            # Shi, Cao & Raschka 2021, arXiv 2111.08851
            above = F.logsigmoid(logits).cumsum(dim=1).exp()  # their product; ONNX has no cumulative one
            ones, zeros = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
            return torch.cat([ones, above], dim=1) - torch.cat([above, zeros], dim=1)
        if self.link == "parts":
            split = logits.split(self.part_sizes, dim=1)
            of_parts = [p.softmax(dim=1)[:, list(values)] for p, values in zip(split, self.parts, strict=True)]
            probs = reduce(torch.mul, of_parts)
            return probs / probs.sum(dim=1, keepdim=True)  # 1 already, unless some combination is no class
        return logits * self.std + self.mean

"""Test-time augmentation: the ways of looking at an image whose outputs are averaged.

A view is a place and a size of the square that is cut out (done where the images are loaded, from the decoded pixels,
so that corners see what the middle does not) and a mirror image or a turn (done on the device).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from pipeline.config.data import Preprocessing

CROP = 0.875  # share of the short side that each of five crops keeps, where the model's own crop keeps more
SCALES = (7 / 8, 1.0, 9 / 8)  # of the model's input size
STEP = 4  # sides are multiples of it


@dataclass(frozen=True)
class Place:
    """Which square of an image is seen, and how large the model sees it."""

    x: float = 0.5  # 0: the left edge, 1: the right one
    y: float = 0.5
    narrow: bool = False  # at most CROP of the short side, so that there are corners
    scale: float = 1.0

    def spec(self, spec: Preprocessing) -> Preprocessing:
        """The preprocessing of this view."""
        px = spec.px if self.scale == 1 else max(STEP, round(spec.px * self.scale / STEP) * STEP)
        return spec.model_copy(update={"px": px, "crop": min(spec.crop, CROP) if self.narrow else spec.crop})


@dataclass(frozen=True)
class View:
    place: Place = Place()
    turns: int = 0  # by 90 degrees
    mirrored: bool = False

    def turned(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), H = W, as this view sees them; how they lie in memory stays as it was."""
        if not (self.mirrored or self.turns):
            return images
        last = images.is_contiguous(memory_format=torch.channels_last)
        images = images.flip(3) if self.mirrored else images
        images = torch.rot90(images, self.turns, (2, 3)) if self.turns else images
        return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


PLAIN = View()
_CORNERS = (Place(narrow=True), *(Place(x, y, narrow=True) for x, y in product((0.0, 1.0), repeat=2)))
_PLACES = {"multi_crop": _CORNERS, "multi_scale": tuple(Place(scale=scale) for scale in SCALES)}
_TURNS = {
    "flip": tuple((0, mirrored) for mirrored in (False, True)),
    "dihedral": tuple(product(range(4), (False, True))),
}


def views_of(names: Sequence[str]) -> tuple[View, ...]:
    """All views that the names of `submit.views` ask for; the plain one where they ask for none."""
    places: list[Place] = [Place()]
    for name in names:
        if name in _PLACES:
            places = [
                Place(cut.x, cut.y, place.narrow or cut.narrow, place.scale * cut.scale) if cut.narrow else
                Place(place.x, place.y, place.narrow, place.scale * cut.scale)
                for place, cut in product(places, _PLACES[name])
            ]  # fmt: skip
    turns = next((_TURNS[name] for name in names if name in _TURNS), ((0, False),))
    return tuple(View(place, n, mirrored) for place, (n, mirrored) in product(places, turns))


def by_place(views: Sequence[View]) -> dict[Place, list[View]]:
    """The views of each square, which needs to be cut out once for all of them."""
    groups: dict[Place, list[View]] = {}
    for view in views:
        groups.setdefault(view.place, []).append(view)
    return groups

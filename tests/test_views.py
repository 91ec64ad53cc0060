"""Views of an image: mirrors and turns are Pillow's, crops are torchvision's FiveCrop, sizes timm's transform."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from pipeline.competition.contract import WHERE
from pipeline.config.data import Preprocessing
from pipeline.images.decode import resize_and_crop, resize_and_crop_fast
from pipeline.images.load import load_images
from pipeline.predict import predict
from pipeline.task import Task
from pipeline.views import PLAIN, Place, View, by_place, views_of

T = Image.Transpose
CPU = torch.device("cpu")
EIGHT = (  # Pillow's ways to lay a square upon itself
    None, T.FLIP_LEFT_RIGHT, T.FLIP_TOP_BOTTOM, T.ROTATE_90, T.ROTATE_180, T.ROTATE_270, T.TRANSPOSE, T.TRANSVERSE
)  # fmt: skip


def spec(**values) -> Preprocessing:
    defaults = {
        "mode": "RGB",
        "px": 32,
        "crop": 0.95,
        "interpolation": "bicubic",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    return Preprocessing(**(defaults | values))


def photo(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def laid(image: Image.Image, how) -> Image.Image:
    return image if how is None else image.transpose(how)


def test_flip_and_dihedral_are_pillows_transpositions():
    image = photo(16, 16)
    first, mirrored = views_of(["flip"])
    assert torch.equal(first.turned(as_tensor(image)), as_tensor(image))
    assert torch.equal(mirrored.turned(as_tensor(image)), as_tensor(image.transpose(T.FLIP_LEFT_RIGHT)))
    seen = [view.turned(as_tensor(image)) for view in views_of(["dihedral"])]
    wanted = [as_tensor(laid(image, how)) for how in EIGHT]
    found = [[torch.equal(one, other) for other in wanted] for one in seen]
    assert np.array(found).sum(axis=0).tolist() == [1] * 8 and np.array(found).sum(axis=1).tolist() == [1] * 8


@pytest.mark.parametrize(("turns", "how"), [(0, None), (1, T.ROTATE_90), (2, T.ROTATE_180), (3, T.ROTATE_270)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_is_mirrored_first_and_turned_then(turns, how, mirrored):
    image = photo(9, 9)
    before = image.transpose(T.FLIP_LEFT_RIGHT) if mirrored else image
    assert torch.equal(View(turns=turns, mirrored=mirrored).turned(as_tensor(image)), as_tensor(laid(before, how)))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_view_lies_in_memory_as_the_images_did(layout):
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4).contiguous(memory_format=layout)
    for view in views_of(["dihedral"]):
        turned = view.turned(images)
        assert turned.is_contiguous(memory_format=layout) and turned.stride() == images.stride()


@pytest.mark.parametrize(
    ("names", "n"),
    [
        ([], 1), (["flip"], 2), (["dihedral"], 8), (["multi_crop"], 5), (["multi_scale"], 3),
        (["flip", "multi_crop"], 10), (["flip", "multi_scale"], 6), (["multi_crop", "multi_scale"], 15),
        (["dihedral", "multi_crop"], 40), (["dihedral", "multi_crop", "multi_scale"], 120),
    ],
)  # fmt: skip
def test_several_kinds_of_view_multiply_in_any_order(names, n):
    views = views_of(names)
    assert len(views) == len(set(views)) == n
    for order in permutations(names):
        assert set(views_of(order)) == set(views)
    groups = by_place(views)
    assert sorted(map(repr, (view for group in groups.values() for view in group))) == sorted(map(repr, views))
    assert all(view.place == place for place, group in groups.items() for view in group)
    n_turns = 8 if "dihedral" in names else 2 if "flip" in names else 1
    assert len(groups) == n // n_turns and {len(group) for group in groups.values()} == {n_turns}


def test_without_a_name_there_is_the_plain_view_alone_which_changes_nothing():
    assert views_of([]) == (PLAIN,)
    images = torch.rand(2, 3, 4, 4)
    assert PLAIN.turned(images) is images and PLAIN.place.spec(spec()) == spec()
    assert (PLAIN.place.x, PLAIN.place.y) == (0.5, 0.5)


def of_place(image: Image.Image, place: Place, own: Preprocessing) -> np.ndarray:
    return resize_and_crop(image, place.spec(own), (place.x, place.y))


@pytest.mark.parametrize("size", [(120, 90), (75, 101), (33, 33), (40, 200), (39, 36), (36, 43)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_multi_crop_is_torchvisions_five_crop_of_the_resized_image(size, crop):
    """Where the model's own crop keeps more than 0.875 of the short side, that much is kept, so that there are corners."""
    image = photo(*size)
    resized = transforms.Resize(int(32 / 0.875), transforms.InterpolationMode.BICUBIC)(image)
    theirs = {np.asarray(square).tobytes() for square in transforms.FiveCrop(32)(resized)}
    mine = [of_place(image, view.place, spec(crop=crop)) for view in views_of(["multi_crop"])]
    assert {square.shape for square in mine} == {(32, 32, 3)}
    assert {square.tobytes() for square in mine} == theirs and len(theirs) == 5


def test_each_corner_is_the_one_that_its_place_says():
    image = photo(90, 60)
    resized = transforms.Resize(int(32 / 0.875), transforms.InterpolationMode.BICUBIC)(image)
    left_top, right_top, left_bottom, right_bottom, middle = transforms.FiveCrop(32)(resized)
    for x, y, theirs in (
        (0, 0, left_top), (1, 0, right_top), (0, 1, left_bottom), (1, 1, right_bottom), (0.5, 0.5, middle)
    ):  # fmt: skip
        assert (of_place(image, Place(x, y, narrow=True), spec()) == np.asarray(theirs)).all()


def test_a_narrower_crop_of_the_model_stays_its_own():
    assert Place(narrow=True).spec(spec(crop=0.75)).crop == 0.75
    assert Place(narrow=True).spec(spec(crop=0.95)).crop == 0.875
    assert Place().spec(spec(crop=0.95)).crop == 0.95


@pytest.mark.parametrize("size", [(120, 90), (75, 101)])
def test_stored_pixels_give_the_same_corners_to_one_grey_level(size):
    image = photo(*size)
    for view in views_of(["multi_crop", "multi_scale"]):
        own, at = view.place.spec(spec()), (view.place.x, view.place.y)
        fast, exact = resize_and_crop_fast(np.asarray(image), own, at), resize_and_crop(image, own, at)
        assert fast.shape == exact.shape and np.abs(fast.astype(int) - exact).max() <= 1
    same = Image.fromarray(np.asarray(photo(40, 36)))  # needs no resizing, so there is no difference at all
    own = spec(crop=32 / 36)
    for at in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0)):
        left, top = round(8 * at[0]), round(4 * at[1])
        expected = np.asarray(same)[top : top + 32, left : left + 32]
        assert (resize_and_crop_fast(np.asarray(same), own, at) == expected).all()
        assert (resize_and_crop(same, own, at) == expected).all()


def test_images_of_a_corner_are_loaded_from_their_files(tmp_path):
    rows, resize = [], transforms.Resize(int(32 / 0.875), transforms.InterpolationMode.BICUBIC)
    for i, size in enumerate([(120, 90), (75, 101), (50, 50)]):
        photo(*size).save(tmp_path / f"{i}.png")
        rows.append({"image_id": str(i), "path": str(tmp_path / f"{i}.png"), WHERE: f"train.csv:{i + 2}"})
    crops = [transforms.FiveCrop(32)(resize(Image.open(row["path"]))) for row in rows]
    for corner, at in ((0, (0.0, 0.0)), (1, (1.0, 0.0)), (2, (0.0, 1.0)), (3, (1.0, 1.0)), (4, (0.5, 0.5))):
        images = load_images(rows, spec(crop=0.875), at=at)
        assert (images == np.stack([np.asarray(of_row[corner]) for of_row in crops])).all()
    assert (load_images(rows, spec(crop=0.875)) == images).all()  # the middle is where nothing else is said


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_multi_scale_is_timms_transform_at_seven_eighths_once_and_nine_eighths_of_the_size(crop):
    image = photo(120, 90)
    sides = []
    for view in views_of(["multi_scale"]):
        own = view.place.spec(spec(px=64, crop=crop))
        transform = create_transform(
            (3, own.px, own.px), is_training=False, interpolation="bicubic", crop_pct=crop, mean=(0.0,) * 3, std=(1.0,) * 3
        )  # fmt: skip
        theirs = (transform(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert (of_place(image, view.place, spec(px=64, crop=crop)) == theirs).all()
        sides.append(own.px)
    assert sorted(sides) == [56, 64, 72]


@pytest.mark.parametrize(("px", "sides"), [(224, [196, 224, 252]), (32, [28, 32, 36]), (100, [88, 100, 112])])
def test_sides_are_multiples_of_four_and_never_the_models_own_changed(px, sides):
    assert sorted(view.place.spec(spec(px=px)).px for view in views_of(["multi_scale"])) == sides
    assert PLAIN.place.spec(spec(px=30)).px == 30


class Upright(torch.nn.Module):
    """Answers by where the light falls, so that turned images are answered otherwise; convolution included."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.head = torch.nn.Linear(4 * 12 * 12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).flatten(1))


def test_a_prediction_of_a_view_is_that_of_images_which_pillow_turned():
    task, own, model = Task("class", "softmax", ("a", "b", "c")), spec(px=12), Upright()
    pictures = [photo(12, 12), photo(13, 13).crop((0, 1, 12, 13)), photo(20, 12).crop((4, 0, 16, 12))]

    def images(how) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(laid(picture, how)) for picture in pictures]))

    plain = predict(model, task, images(None), own, CPU)
    assert np.array_equal(plain, predict(model, task, images(None), own, CPU, PLAIN))
    for view, how in (
        (View(mirrored=True), T.FLIP_LEFT_RIGHT),
        (View(turns=1), T.ROTATE_90),
        (View(turns=3), T.ROTATE_270),
    ):
        turned = predict(model, task, images(None), own, CPU, view)
        assert np.allclose(turned, predict(model, task, images(how), own, CPU), atol=1e-6)
        assert np.abs(turned - plain).max() > 1e-3

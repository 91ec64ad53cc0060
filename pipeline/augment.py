"""Random changes of training images: on the host, an image at a time, in bytes; only mixing two is the device's.

Randomness is a pure function of (seed, epoch, image): the same image is changed in the same way whatever the batch
size, the order, the number of threads or the epoch a run was resumed at. Crop, scale, rotation, shear, shift and mirror
are one affine map and one resampling, because four in a row would blur four times; colours are one matrix an image.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import beta

from pipeline.config.data import Preprocessing
from pipeline.config.training import Augment

cv2.setNumThreads(0)  # `feed` has threads of its own, and each call here is too small to be shared out

DRAWS = (  # the columns of `draws`, each for one decision
    *("crop_area", "crop_ratio", "crop_x", "crop_y", "angle", "shear", "scale", "shift_x", "shift_y", "flip"),
    *("flip_vertical", "turn", "brightness", "contrast", "saturation", "hue", "grey", "blur", "erase", "erase_area"),
    *("erase_ratio", "erase_x", "erase_y", "erase_r", "erase_g", "erase_b", "mix", "mix_kind", "mix_share"),
    *("cut_x", "cut_y"),
)
COLUMN = {name: i for i, name in enumerate(DRAWS)}
BORDER = {"black": cv2.BORDER_CONSTANT, "edge": cv2.BORDER_REPLICATE, "mirror": cv2.BORDER_REFLECT_101}
ENLARGING = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC,
             "lanczos": cv2.INTER_LANCZOS4}  # fmt: skip
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
# YIQ, where hue is an angle around Y
_YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])


def image_keys(image_ids: Sequence[str]) -> np.ndarray:
    """(N,) uint64: a number for each id that depends on nothing but the id."""
    digests = (hashlib.blake2b(image_id.encode(), digest_size=8).digest() for image_id in image_ids)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def draws(seed: int, epoch: int, keys: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """(B, len(DRAWS)) float32, uniform in [0, 1), a function of (seed, epoch, key, time, column).

    times: (B,) how often the image came before in this epoch, where a sampler draws with replacement. A counter-based
    generator: the mixing function of SplitMix64 (Steele, Lea & Flood 2014), applied to each counter.
    """
    state = _mix(np.uint64(seed) ^ _mix(np.full(1, epoch, np.uint64)))
    state = state ^ keys
    if times is not None:
        state = np.where(times > 0, _mix(state ^ times.astype(np.uint64)), state)
    bits = _mix(_mix(state)[:, None] + np.arange(1, len(DRAWS) + 1, dtype=np.uint64))
    return ((bits >> np.uint64(40)) * np.float32(2**-24)).astype(np.float32)  # 24 bits: what a float32 holds


def _mix(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around silently, which is meant
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# --- on the host ---------------------------------------------------------------------------------------------------


def moves(settings: Augment) -> bool:
    """Whether any pixel may come from elsewhere; if not, training sees what validation sees."""
    amounts = (settings.rotate_deg, settings.shear, settings.scale, settings.shift, settings.flip)
    return settings.crop_area != "off" or settings.quarter_turns or any((*amounts, settings.flip_vertical))


def maps(sizes: np.ndarray, uniform: np.ndarray, settings: Augment, spec: Preprocessing) -> np.ndarray:
    """(B, 2, 3) float64 affine maps from output to source pixels, centres at whole numbers. sizes: (B, 2) h, w."""
    height, width = sizes[:, 0].astype(float), sizes[:, 1].astype(float)
    px = spec.px
    u = {name: uniform[:, i].astype(float) for name, i in COLUMN.items()}
    if settings.crop_area == "off":  # the window that validation cuts out, with its roundings
        short = int(spec.px / spec.crop)
        new_h = np.where(height < width, short, (short * height / width).astype(int))
        new_w = np.where(width <= height, short, (short * width / height).astype(int))
        box_w, box_h = px * width / new_w, px * height / new_h
        left, top = np.round((new_w - px) / 2) * width / new_w, np.round((new_h - px) / 2) * height / new_h
    else:  # Szegedy et al. 2015, arXiv 1409.4842, section 6: a share of the area, an aspect ratio, a place
        area = (settings.crop_area[0] + u["crop_area"] * (settings.crop_area[1] - settings.crop_area[0])) * height
        area = area * width
        low, high = math.log(settings.crop_ratio[0]), math.log(settings.crop_ratio[1])
        ratio = np.exp(low + u["crop_ratio"] * (high - low))
        box_w, box_h = np.minimum(np.sqrt(area * ratio), width), np.minimum(np.sqrt(area / ratio), height)
        left, top = u["crop_x"] * (width - box_w), u["crop_y"] * (height - box_h)
    # what is drawn acts around the middle of the output, in units of its side, before the window is laid over the image
    angle = (2 * u["angle"] - 1) * math.radians(settings.rotate_deg)
    if settings.quarter_turns:
        angle = angle + np.floor(u["turn"] * 4) * (math.pi / 2)
    zoom = 1 / (1 + (2 * u["scale"] - 1) * settings.scale)  # output to source, so it is the inverse that counts
    shear = (2 * u["shear"] - 1) * settings.shear
    mirror_x = np.where(u["flip"] < settings.flip, -1.0, 1.0)
    mirror_y = np.where(u["flip_vertical"] < settings.flip_vertical, -1.0, 1.0)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    linear = np.stack([cos * mirror_x, (cos * shear - sin) * mirror_y, sin * mirror_x, (sin * shear + cos) * mirror_y])
    linear = linear.T.reshape(-1, 2, 2)
    shift = np.stack([2 * u["shift_x"] - 1, 2 * u["shift_y"] - 1], axis=1) * settings.shift
    to_unit = np.full((len(sizes), 2), 0.5 / px - 0.5)  # of output pixel (0, 0), from the middle, in sides
    offset = np.einsum("bij,bj->bi", linear, to_unit) + shift + 0.5
    scale = np.stack([box_w, box_h], axis=1)
    matrix = np.empty((len(sizes), 2, 3))
    matrix[:, :, :2] = linear / px * scale[:, :, None]
    matrix[:, :, 2] = offset * scale + np.stack([left, top], axis=1) - 0.5
    return matrix


def warp(pixels: np.ndarray, matrix: np.ndarray, settings: Augment, spec: Preprocessing) -> np.ndarray:
    """(px, px, C) uint8 of one image (h, w, 1 or 3); C as `spec.mode` asks.

    Shrinking by more than two first averages whole blocks, which a resampling with four neighbours would skip over.
    """
    matrix = matrix.astype(np.float64)
    shrinking = math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    if (block := int(shrinking)) >= 2:
        height, width = pixels.shape[:2]
        small = (max(width // block, 1), max(height // block, 1))
        even = np.ascontiguousarray(pixels[: small[1] * block, : small[0] * block])
        pixels = cv2.resize(even, small, interpolation=cv2.INTER_AREA).reshape(small[1], small[0], -1)
        matrix = matrix / block
        matrix[:, 2] += 0.5 / block - 0.5
    flags = (ENLARGING[spec.interpolation] if shrinking < 1 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(pixels, matrix, (spec.px, spec.px), flags=flags, borderMode=BORDER[settings.fill])
    if spec.mode == "L":
        grey = out if out.ndim == 2 or out.shape[2] == 1 else cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)
        return grey.reshape(spec.px, spec.px, 1)
    return out if out.ndim == 3 and out.shape[2] == 3 else cv2.cvtColor(out, cv2.COLOR_GRAY2RGB)


def soften(image: np.ndarray, strength: float) -> np.ndarray:
    """Gaussian blur; strength in [0, 1): a standard deviation of 0.5 to 1.5 pixels for each 64 of the side."""
    sigma = (0.5 + strength) * image.shape[0] / 64
    return cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)


def recolours(settings: Augment) -> bool:
    """Whether any colour may change."""
    return any((settings.brightness, settings.contrast, settings.saturation, settings.hue, settings.grey))


def colour_maps(means: np.ndarray, uniform: np.ndarray, settings: Augment) -> np.ndarray:
    """(B, C, C + 1) matrices that change colours: brightness, contrast, saturation, hue and loss of colour in one.

    means: (B, C) of each image's channels. Each factor is torchvision's ColorJitter's, in that order, but what leaves
    0..255 is clipped once, at the end.
    """
    u = {name: uniform[:, i].astype(float) for name, i in COLUMN.items()}
    n, channels = means.shape
    brightness, contrast = (1 + (2 * u[name] - 1) * getattr(settings, name) for name in ("brightness", "contrast"))
    middle = means @ (LUMA if channels == 3 else (1.0,))  # an image's luma; saturation and hue leave it as it is
    out = np.empty((n, channels, channels + 1))
    out[:, :, channels] = ((1 - contrast) * brightness * middle)[:, None]
    gain = (contrast * brightness)[:, None, None]
    if channels == 1:
        out[:, :, :1] = gain
        return out
    saturation = 1 + (2 * u["saturation"] - 1) * settings.saturation
    saturation = np.where(u["grey"] < settings.grey, 0.0, saturation)[:, None, None]
    turn = (2 * u["hue"] - 1) * (settings.hue * 2 * math.pi)
    rotation = np.zeros((n, 3, 3))
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(turn)
    rotation[:, 2, 1] = np.sin(turn)
    rotation[:, 1, 2] = -rotation[:, 2, 1]
    colour = (np.linalg.inv(_YIQ) @ rotation @ _YIQ) @ (saturation * np.eye(3) + (1 - saturation) * np.array(LUMA))
    out[:, :, :3] = gain * colour
    return out


def recolour(images: np.ndarray, uniform: np.ndarray, settings: Augment) -> None:
    """Changes the colours of (B, h, w, C) uint8 in place."""
    means = np.array([cv2.mean(image)[: images.shape[3]] for image in images])
    for image, matrix in zip(images, colour_maps(means, uniform, settings), strict=True):
        image[:] = cv2.transform(image, matrix).reshape(image.shape)


def erase(images: np.ndarray, uniform: np.ndarray, settings: Augment, spec: Preprocessing) -> None:
    """Random erasing (Zhong et al. 2020, arXiv 1708.04896) in place: a rectangle in one random colour. (B, h, w, C).

    One colour a rectangle and not one a pixel, so that it is a function of the image's own few draws; normal around the
    mean of the model's data.
    """
    u = {name: uniform[:, i].astype(float) for name, i in COLUMN.items()}
    low, high = settings.erase_area
    area = low + u["erase_area"] * (high - low)
    ratio = np.exp((2 * u["erase_ratio"] - 1) * math.log(1 / 0.3))
    width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    left, top = u["erase_x"] * (1 - width), u["erase_y"] * (1 - height)
    box = np.stack([left, left + width, top, top + height], axis=1) * spec.px
    drawn = np.stack([u[name] for name in ("erase_r", "erase_g", "erase_b")[: images.shape[3]]], axis=1)
    normal = ndtri(drawn.clip(1e-4, 1 - 1e-4))
    colours = ((np.array(spec.mean) + np.array(spec.std) * normal) * 255).clip(0, 255)
    for i in np.flatnonzero(u["erase"] < settings.erase):
        x0, x1, y0, y1 = np.round(box[i]).astype(int)
        images[i, y0:y1, x0:x1] = colours[i]


# --- on the device -------------------------------------------------------------------------------------------------


class Normalise:
    """uint8 (B, H, W, C) to float32 (B, C, H, W) with the specification's mean and std.

    The two constants go to the device once: a copy per batch would make the host wait for the device each time. The
    result lies in memory as it came, channels last, unless `channels_last` is False.
    """

    def __init__(self, spec: Preprocessing, device: torch.device, channels_last: bool = True):
        std = torch.tensor(spec.std, dtype=torch.float64) * 255
        self.factor = (1 / std).float().to(device)
        self.shift = (-torch.tensor(spec.mean, dtype=torch.float64) * 255 / std).float().to(device)
        self.channels_last = channels_last

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = torch.addcmul(self.shift, images.float(), self.factor).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()


@dataclass(frozen=True)
class Mix:
    """How each image of a window is mixed with the next one: by adding, or by a rectangle of it.

    own: (B,) share of the image's own label. cut: (B,) whether by a rectangle, of the given width, height and place.
    """

    own: torch.Tensor
    cut: torch.Tensor
    size: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    def part(self, part: slice, device: torch.device) -> "Mix":
        """Of some rows, on the device."""
        values = (self.own, self.cut, self.size, self.x, self.y)
        return Mix(*(value[part].to(device, non_blocking=True) for value in values))


def draw_mix(uniform: np.ndarray, settings: Augment) -> Mix | None:
    """Mixup: Zhang et al. 2018, arXiv 1710.09412. Cutmix: Yun et al. 2019, arXiv 1905.04899. None: both are off."""
    if not (settings.mixup or settings.cutmix):
        return None
    u = {name: uniform[:, COLUMN[name]].astype(float) for name in ("mix", "mix_kind", "mix_share", "cut_x", "cut_y")}
    cut = u["mix_kind"] < (settings.cutmix > 0) / ((settings.mixup > 0) + (settings.cutmix > 0))
    share = np.where(u["mix"] < settings.mix_share, 1.0, 0.0)
    quantile = u["mix_share"].clip(1e-6, 1 - 1e-6)
    own = np.ones(len(uniform))
    for alpha, where in ((settings.mixup, ~cut), (settings.cutmix, cut)):
        if alpha:
            own = np.where(where & (share > 0), beta.ppf(quantile, alpha, alpha), own)
    values = (own, np.sqrt(1 - own), u["cut_x"], u["cut_y"])
    own, size, x, y = (torch.from_numpy(value.astype(np.float32)) for value in values)
    return Mix(own, torch.from_numpy(cut), size, x, y)


def _inside(images: torch.Tensor, size: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) booleans: a rectangle of `size` (share of the side) somewhere within the image."""
    side = images.shape[-1]
    at = (torch.arange(side, device=images.device) + 0.5) / side
    left, top, size = (x * (1 - size)).view(-1, 1), (y * (1 - size)).view(-1, 1), size.view(-1, 1)
    across, down = (at >= left) & (at < left + size), (at >= top) & (at < top + size)
    return (down[:, :, None] & across[:, None, :])[:, None]


def mix(images: torch.Tensor, following: torch.Tensor, how: Mix) -> tuple[torch.Tensor, torch.Tensor]:
    """(mixed images (B, C, H, W), share of the own label (B,)); a rectangle's share is counted in pixels."""
    box = _inside(images, how.size, how.x, how.y) & how.cut.view(-1, 1, 1, 1)
    own = torch.where(how.cut, 1 - box.float().mean(dim=(1, 2, 3)), how.own)
    added = torch.lerp(following, images, torch.where(how.cut, 1.0, own).view(-1, 1, 1, 1))
    return torch.where(box, following, added), own

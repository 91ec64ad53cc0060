"""Unusual files: each is read as a person would see it, judged by pixels worked out by hand, and noted as unusual."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import Unreadable, open_image

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.dstack([RAMP, RAMP[::-1], 255 - RAMP])


def save(tmp_path, image: Image.Image, name: str, **options) -> str:
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def test_grey_stays_grey_and_colour_is_rgb(tmp_path):
    image, facts = open_image(save(tmp_path, Image.fromarray(RAMP), "grey.png"))
    assert image.mode == "L" and (np.asarray(image) == RAMP).all() and facts.mode == "L" and facts.bits == 8
    image, facts = open_image(save(tmp_path, Image.fromarray(COLOUR), "colour.png"))
    assert (np.asarray(image) == COLOUR).all() and (facts.width, facts.height, facts.format) == (8, 6, "PNG")
    image, _ = open_image(save(tmp_path, Image.fromarray(RAMP > 100), "bits.png"))
    assert image.mode == "L" and (np.asarray(image) == (RAMP > 100) * 255).all()


def test_a_palette_is_looked_up(tmp_path):
    palette = Image.new("P", (8, 6))
    palette.putdata((RAMP // 80).reshape(-1).tolist())
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image, facts = open_image(save(tmp_path, palette, "palette.png"))
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[RAMP // 80]
    assert facts.mode == "P" and not facts.has_alpha and (np.asarray(image) == expected).all()


def test_transparent_pixels_lie_on_white_and_opaque_ones_stay(tmp_path):
    alpha = np.full((6, 8), 255, np.uint8)
    rgba = np.dstack([COLOUR, alpha])
    image, facts = open_image(save(tmp_path, Image.fromarray(rgba), "opaque.png"))
    assert not facts.has_alpha and (np.asarray(image) == COLOUR).all()
    rgba[0, 0, 3] = 0
    rgba[5, 7] = (0, 0, 0, 128)
    image, facts = open_image(save(tmp_path, Image.fromarray(rgba), "clear.png"))
    pixels = np.asarray(image).astype(int)
    assert facts.has_alpha and facts.mode == "RGBA" and (pixels[0, 0] == 255).all()
    assert np.abs(pixels[5, 7] - 127).max() <= 1 and (pixels[1:5] == COLOUR[1:5]).all()
    alpha[2, 2] = 0
    grey = Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(alpha)])
    image, facts = open_image(save(tmp_path, grey, "la.png"))
    assert facts.has_alpha and np.asarray(image.convert("L"))[2, 2] == 255


def test_cmyk_is_converted_and_sixteen_bits_are_scaled(tmp_path):
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    image, facts = open_image(save(tmp_path, cmyk, "c.tif"))
    assert facts.mode == "CMYK" and image.mode == "RGB" and image.getpixel((1, 1)) == (255, 0, 0)
    deep = (RAMP.astype(np.uint16) << 8) + 77
    image, facts = open_image(save(tmp_path, Image.fromarray(deep), "deep.png"))
    assert facts.bits == 16 and (np.asarray(image) == RAMP).all()


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    image, facts = open_image(save(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:]))
    assert facts.frames == 2 and (np.asarray(image.convert("L")) == RAMP).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, facts = open_image(save(tmp_path, Image.fromarray(RAMP), "turned.png", exif=exif))
    # by hand: what the standard says of each value
    turned = {1: RAMP, 2: RAMP[:, ::-1], 3: RAMP[::-1, ::-1], 4: RAMP[::-1], 5: RAMP.T, 6: RAMP[::-1].T,
              7: RAMP[::-1, ::-1].T, 8: RAMP[:, ::-1].T}[orientation]  # fmt: skip
    assert (np.asarray(image) == turned).all() and facts.orientation == orientation
    assert (facts.height, facts.width) == turned.shape


def test_a_misnamed_file_is_read_by_its_content(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOUR), "really.png")
    (tmp_path / "really.jpg").write_bytes((tmp_path / "really.png").read_bytes())
    image, facts = open_image(path.replace(".png", ".jpg"))
    assert facts.format == "PNG" and (np.asarray(image) == COLOUR).all()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "UnidentifiedImageError"),
        (b"hello", "UnidentifiedImageError"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xff\xff\xff", "Error"),
        (b"%PDF-1.4\n", "UnidentifiedImageError"),
        (b"GIF89a\x01", "Error"),
        (b"\xff\xd8\xff\xe0", "Error"),
    ],
)
def test_what_is_no_image_has_a_reason(tmp_path, content, part):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Unreadable, match=part):
        open_image(str(tmp_path / "x.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_any_cut_of_a_file_is_read_whole_or_refused(tmp_path, kind):
    rng = np.random.default_rng(0)
    whole = save(tmp_path, Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)), f"x.{kind.lower()}")
    content = Path(whole).read_bytes()
    refused = 0
    for cut in range(0, len(content) - 2, max(1, len(content) // 40)):
        (tmp_path / "cut").write_bytes(content[:cut])
        try:
            open_image(str(tmp_path / "cut"))
        except Unreadable:
            refused += 1
    assert refused >= 35


def test_floating_point_pixels_are_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(RAMP.astype(np.float32) / 255), "f.tif")
    with pytest.raises(Unreadable, match="floating-point"):
        open_image(path)

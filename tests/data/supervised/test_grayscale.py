"""Images of every mode: their gray levels survive the conversion, and its steps are reported."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dlref.data.supervised.grayscale import to_gray
from dlref.data.supervised.images import open_gray, read_image
from dlref.errors import DataError

INK = np.zeros((6, 8), np.uint8)  # a soft stroke, light on dark, with a dark edge all around
INK[1:5, 3:5] = [[100, 60], [255, 220], [255, 200], [80, 50]]
INK[0, 0] = INK[-1, -1] = 0
DARK = 255 - INK
ABOUT = {"shape": [6, 8], "mean": 0.0, "std": 1.0, "corner": 0.0}


def stored(image: Image.Image, kind: str = "PNG", **settings: Any) -> Image.Image:
    """The image as it is read from a file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return Image.open(file)


def with_alpha(gray: int, alpha: np.ndarray, mode: str = "RGBA") -> Image.Image:
    """An image of one gray level whose shape is in the alpha channel."""
    image = Image.new("L", alpha.shape[::-1], gray).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    return image


def palette(transparent: int) -> Image.Image:
    """Two colors, one of which is transparent."""
    image = Image.fromarray((INK > 128).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255] if transparent == 0 else [255, 255, 255, 0, 0, 0])
    return stored(image, transparency=0)


SIGNED = (INK / 255 * 2 - 1).astype(np.float32)
MODES: dict[str, tuple[Image.Image, np.ndarray, list[str]]] = {
    "gray": (stored(Image.fromarray(INK)), INK, []),
    "one bit": (stored(Image.fromarray(INK > 128)), 255 * (INK > 128), []),
    "color": (stored(Image.fromarray(INK).convert("RGB")), INK, ["converted to gray"]),
    "CMYK": (stored(Image.fromarray(INK).convert("RGB").convert("CMYK"), "TIFF"), INK, ["converted to gray"]),
    "opaque": (stored(Image.fromarray(INK).convert("RGBA")), INK, ["converted to gray"]),
    "white on transparent": (stored(with_alpha(255, INK)), INK, ["converted to gray", "flattened onto black"]),
    "black on transparent": (stored(with_alpha(0, INK)), DARK, ["converted to gray", "flattened onto white"]),
    "gray and alpha": (stored(with_alpha(0, INK, "L")), DARK, ["flattened onto white"]),
    "palette, black transparent": (palette(0), 255 * (INK > 128), ["converted to gray", "flattened onto black"]),
    "palette, white transparent": (palette(1), 255 * (INK <= 128), ["converted to gray", "flattened onto white"]),
    "16 bits": (stored(Image.fromarray(INK.astype(np.uint16) * 257)), INK, ["values from 0 to 65535 scaled to 8 bits"]),
    "8 bits in 16": (stored(Image.fromarray(INK.astype(np.uint16))), INK, ["values from 0 to 255 scaled to 8 bits"]),
    "32 bits": (
        stored(Image.fromarray(INK.astype(np.int32) * 257), "TIFF"),
        INK,
        ["values from 0 to 65535 scaled to 8 bits"],
    ),
    "a mask": (
        stored(Image.fromarray((INK > 128).astype(np.int32)), "TIFF"),
        255 * (INK > 128),
        ["values from 0 to 1 scaled to 8 bits"],
    ),
    "real, 0 to 1": (
        stored(Image.fromarray((INK / 255).astype(np.float32)), "TIFF"),
        INK,
        ["values from 0 to 1 scaled to 8 bits"],
    ),
    "real, overshooting": (
        stored(Image.fromarray((INK / 255 * 1.04 - 0.02).astype(np.float32)), "TIFF"),
        np.clip(INK * 1.04 - 5.1, 0, 255),
        ["values from 0 to 1 scaled to 8 bits"],
    ),
    "real, 0 to 255": (
        stored(Image.fromarray(INK.astype(np.float32)), "TIFF"),
        INK,
        ["values from 0 to 255 scaled to 8 bits"],
    ),
    "real, -1 to 1": (
        stored(Image.fromarray(SIGNED), "TIFF"),
        INK,
        ["values from minimum to maximum scaled to 8 bits"],
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_an_image_of_any_mode_keeps_its_gray_levels(name: str) -> None:
    image, expected, steps = MODES[name]
    gray, done = to_gray(image)
    assert gray.mode == "L"
    np.testing.assert_allclose(np.asarray(gray, float), expected, atol=1)
    assert done == steps


def test_a_transparent_value_of_16_bits_is_flattened() -> None:
    image = stored(Image.fromarray(np.where(INK > 128, 0, 40000).astype(np.uint16)))
    image.info["transparency"] = 40000
    gray, done = to_gray(image)
    assert np.array_equal(np.asarray(gray), 255 * (INK <= 128))
    assert done[-1] == "flattened onto white"


def test_an_image_inside_a_transparent_frame_keeps_its_own_background() -> None:
    alpha = np.full(DARK.shape, 255, np.uint8)
    alpha[0] = alpha[:, 0] = 0
    for drawn in (INK, DARK):
        image = Image.fromarray(drawn).convert("RGBA")
        image.putalpha(Image.fromarray(alpha))
        gray, done = to_gray(stored(image))
        assert np.array_equal(np.asarray(gray), drawn)
        assert "flattened onto" in done[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    pixels = np.ones((6, 8), np.float32)
    pixels[2, 2] = value
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="not finite"):
        open_gray(tmp_path / "a.tif")


def test_exif_rotation_and_a_skipped_frame_are_reported(tmp_path: Path) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # rotate by 90° clockwise
    Image.fromarray(INK).save(tmp_path / "turned.png", exif=orientation)
    gray, mode, steps = open_gray(tmp_path / "turned.png")
    assert np.array_equal(np.asarray(gray), np.rot90(INK, -1))
    assert (mode, steps) == ("L", ["rotated by its EXIF orientation"])
    Image.fromarray(INK).save(tmp_path / "two.gif", save_all=True, append_images=[Image.fromarray(DARK)])
    gray, _, steps = open_gray(tmp_path / "two.gif")
    assert np.array_equal(np.asarray(gray), INK)
    assert steps[0] == "only its first frame read"


def test_files_with_the_same_steps_share_a_note(tmp_path: Path) -> None:
    notes: dict[str, list[Path]] = {}
    pictures = {
        "a": with_alpha(0, INK),
        "b": with_alpha(0, INK),
        "fits": Image.fromarray(INK),
        "blank": Image.new("L", (9, 9)),
    }
    for name, image in pictures.items():
        image.save(tmp_path / f"{name}.png")
        pixels = read_image(tmp_path / f"{name}.png", ABOUT, invert=name in "ab", notes=notes)
        if name != "blank":
            torch.testing.assert_close(pixels[0], torch.from_numpy(INK).float(), atol=1, rtol=0)
    flattened = "of mode RGBA: converted to gray, flattened onto white, inverted"
    resized = "of mode L: resized to 8 × 6 with a border"
    assert {note: [path.stem for path in paths] for note, paths in notes.items()} == {
        flattened: ["a", "b"],
        resized: ["blank"],
        "nearly blank: almost one gray level": ["blank"],
    }
    read_image(tmp_path / "a.png", ABOUT, invert=False, notes=notes)
    assert [path.stem for path in notes["with light corners, dark in the training images: try with --invert"]] == ["a"]

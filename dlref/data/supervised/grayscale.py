"""A picture of any of Pillow's modes as 8-bit gray, and what was done to make it so."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

WHITES = (1, 255, 2**16 - 1)  # what white may be in a file of 16 bits, of whole numbers or of real ones
OPAQUE = 128  # the least alpha of a pixel that counts as one of the picture
NAMES = {0: "black", 255: "white"}


def to_gray(image: "Image") -> "tuple[Image, list[str]]":
    """The picture in mode L, flattened where it is transparent, and the steps that this took; empty for mode L itself.

    Raises ValueError for values that are not finite.
    """
    from PIL import Image

    steps: list[str] = []
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        gray = Image.fromarray(scaled(values, steps))
        if isinstance(key := image.info.get("transparency"), int):  # the value that stands for no color
            alpha = Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255)))
    elif image.has_transparency_data:
        colors = image.convert("RGBA")
        gray, alpha = colors.convert("L"), colors.getchannel("A")
    else:
        gray = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
    if image.mode not in ("1", "L", "LA", "I", "F") and not image.mode.startswith("I;16"):
        steps.append("converted to gray")
    if alpha is not None and alpha.getextrema() != (255, 255):
        ground = background(gray, alpha)
        flat = Image.new("L", gray.size, ground)
        flat.paste(gray, mask=alpha)
        gray = flat
        steps.append(f"flattened onto {NAMES.get(ground, 'its own background')}")
    return gray, steps


def scaled(values: np.ndarray, steps: list[str]) -> np.ndarray:
    """Numbers of any range as uint8 [rows, columns].

    White is the smallest of 1, 255 and 65535 that no value exceeds; real numbers may overshoot it a little, as resizing
    makes them. Where there is none, or values are negative, the smallest value is black and the largest white.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are not finite")
    over = 0.1 if values.dtype.kind == "f" else 0.0
    white = next((w for w in WHITES if high <= w * (1 + over)), None)
    white = None if white is None or low < -white * over else white
    span = "their least to their largest" if white is None else f"0 to {white}"
    steps.append(f"values from {span} scaled to 8 bits")
    low, high = (low, max(high, low + 1e-9)) if white is None else (0.0, float(white))
    return np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)


def background(gray: "Image", alpha: "Image") -> int:
    """The gray level 0 to 255 that belongs where a picture is transparent.

    Ink of nearly one level is drawn by its transparency, and needs white or black, whichever is farther. Otherwise the
    opaque part is a picture with a background of its own, mostly its median.
    """
    counts: Any = np.cumsum(gray.histogram(alpha.point([255 * (a >= OPAQUE) for a in range(256)])))
    if not counts[-1]:
        return 255
    dark, middle, light = (int(np.searchsorted(counts, counts[-1] * part)) for part in (0.01, 0.5, 0.99))
    return middle if light - dark > 128 else 255 * (middle < 128)

"""Conversion of an image of any of Pillow's modes to 8-bit gray."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE_LEVELS = (1, 255, 2**16 - 1)  # possible white levels of an image of 16 bits, integers or floats
OPAQUE = 128  # the smallest alpha of a pixel that counts as opaque
NAMES = {0: "black", 255: "white"}


def to_gray(image: "Image") -> "tuple[Image, list[str]]":
    """The image in mode L, flattened where it is transparent, and the conversion steps; no steps for mode L itself.

    Raises ValueError for values that are not finite.
    """
    from PIL import Image

    steps: list[str] = []
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        gray = Image.fromarray(to_8_bits(values, steps))
        if isinstance(key := image.info.get("transparency"), int):  # the value of transparent pixels
            alpha = Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255)))
    elif image.has_transparency_data:
        colors = image.convert("RGBA")
        gray, alpha = colors.convert("L"), colors.getchannel("A")
    else:
        gray = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
    if image.mode not in ("1", "L", "LA", "I", "F") and not image.mode.startswith("I;16"):
        steps.append("converted to gray")
    if alpha is not None and alpha.getextrema() != (255, 255):
        level = background(gray, alpha)
        flat = Image.new("L", gray.size, level)
        flat.paste(gray, mask=alpha)
        gray = flat
        steps.append(f"flattened onto {NAMES.get(level, 'its own background')}")
    return gray, steps


def to_8_bits(values: np.ndarray, steps: list[str]) -> np.ndarray:
    """Gray values of any range scaled to uint8 [rows, columns]; the step is appended to `steps`.

    White is the smallest of 1, 255 and 65535 that no value exceeds; floats may overshoot it by a tenth, as after resizing.
    Where none is large enough, or values are negative, the minimum becomes black and the maximum white.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are not finite")
    overshoot = 0.1 if values.dtype.kind == "f" else 0.0
    white = next((w for w in WHITE_LEVELS if high <= w * (1 + overshoot)), None)
    white = None if white is None or low < -white * overshoot else white
    source_range = "minimum to maximum" if white is None else f"0 to {white}"
    steps.append(f"values from {source_range} scaled to 8 bits")
    low, high = (low, max(high, low + 1e-9)) if white is None else (0.0, float(white))
    return np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)


def background(gray: "Image", alpha: "Image") -> int:
    """Gray level 0 to 255 that transparent pixels are filled with.

    Opaque pixels of nearly one level are a shape given by the transparency: the background is white or black, whichever
    contrasts more. Otherwise the opaque part has a background of its own, which is mostly its median.
    """
    counts: Any = np.cumsum(gray.histogram(alpha.point([255 * (a >= OPAQUE) for a in range(256)])))
    if not counts[-1]:
        return 255
    dark, median, light = (int(np.searchsorted(counts, counts[-1] * quantile)) for quantile in (0.01, 0.5, 0.99))
    return median if light - dark > 128 else 255 * (median < 128)

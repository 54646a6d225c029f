"""Encoded images to arrays, for the data sets that hold files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field

from nas.core.errors import InvalidData
from nas.datasets.splits import SplitParams

Encoded = Path | bytes
Decode = Callable[[Encoded, str], NDArray[np.uint8]]
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_GREY = ("1", "L", "LA", "La")
_EIGHT_BITS = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")


class ImageParams(SplitParams):
    """``image_size``: images are cropped to a centred square and scaled to so many pixels; None: all have one size.

    ``channels``: 1 for grey, 3 for colour; None: what the first image has.
    """

    image_size: int | None = Field(default=None, ge=4, le=4096)
    channels: Literal[1, 3] | None = None


def decoder(first: Encoded, where: str, params: ImageParams) -> Decode:
    """``decode(encoded, where) -> image_CHW``; size and channels come from ``params``, or else from the first image.

    Raises InvalidData naming ``where`` for an image that is truncated, no image, or of another size.
    """
    image = _open(first, where)
    mode = "L" if (params.channels or (1 if image.mode in _GREY else 3)) == 1 else "RGB"
    size = image.size

    def decode(encoded: Encoded, where: str) -> NDArray[np.uint8]:
        image = _open(encoded, where).convert(mode)
        if params.image_size is not None:
            image = ImageOps.fit(image, (params.image_size, params.image_size), Image.Resampling.BILINEAR)
        elif image.size != size:
            raise InvalidData(
                f"{where}: expected {size[0]}x{size[1]} pixels as in the first image, got "
                f"{image.size[0]}x{image.size[1]}; set the parameter image_size to scale all images to one size"
            )
        array_HW_or_HWC = np.asarray(image, dtype=np.uint8)
        return array_HW_or_HWC[None] if mode == "L" else array_HW_or_HWC.transpose(2, 0, 1)

    return decode


def _open(encoded: Encoded, where: str) -> Image.Image:
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except _UNREADABLE as error:
        raise InvalidData(f"{where}: cannot be decoded (truncated, or no image): {error}") from error
    if upright.mode not in _EIGHT_BITS:
        raise InvalidData(f"{where}: expected 8 bits per channel, got Pillow mode {upright.mode}")
    return upright

"""Encoded images to arrays, for the data sets that hold files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from nas.core.errors import InvalidData
from nas.core.ports import ImageShape
from nas.core.records import ImageRead
from nas.datasets.intake import Intake
from nas.datasets.limits import check_memory, check_pixels
from nas.datasets.splits import SplitParams

Encoded = Path | bytes
Box = tuple[float, float, float, float]  # left, top, right, bottom
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_GREY = ("1", "L", "LA", "La")
_EIGHT_BITS = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
_ORIENTATION = 0x0112  # in EXIF
_CHECKED_SIDE = 64  # pixels to which JPEGs are scaled down where they are decoded only to see whether they can be
Background = Literal["white", "black"]
StorageChoice = Literal["auto", "memory", "decoded", "encoded"]


_Side = Annotated[int, Field(ge=4, le=4096)]


class SizeParams(SplitParams):
    """``image_size``: images are cropped to a centred square and scaled to so many pixels, or to ``[height, width]``
    and the shape of that; None: all have one size, and what is not square is cropped. ``storage``: whether the images
    are read into memory, or prepared on disk, as pixels (``decoded``) or as they came (``encoded``); ``auto`` decides
    by their size (``nas.datasets.storage``)."""

    image_size: _Side | tuple[_Side, _Side] | None = None
    storage: StorageChoice = "auto"

    @property
    def keeps_shape(self) -> bool:
        """Where ``image_size`` says height and width."""
        return isinstance(self.image_size, tuple)

    @property
    def scaled_size(self) -> tuple[int, int] | None:
        """Height and width that images are scaled to; None for none."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


class ImageParams(SizeParams):
    """``channels``: 1 for grey, 3 for colour; None: what the first image has. ``background``: what transparent pixels
    show. ``skip_unreadable``: so many images at most may be left out because they cannot be used. Of images that stay
    encoded, training sees random parts of at least the share ``crop_area``, scaled to ``image_size`` (Szegedy et al.,
    CVPR 2015), and evaluation the share ``eval_crop`` of the sides of the largest centred part of that shape."""

    channels: Literal[1, 3] | None = None
    background: Background = "white"
    skip_unreadable: int = Field(default=0, ge=0)
    crop_area: float = Field(default=0.25, gt=0, le=1)
    eval_crop: float = Field(default=0.875, gt=0, le=1)


@dataclass(frozen=True)
class ImageFormat:
    """What the images of a data set become. ``size``: height and width. ``scaled``: whether images are cropped and
    scaled to it; else all must have it. ``forced``: the parameters say how many channels, so that colour may become
    grey."""

    grey: bool
    forced: bool
    size: tuple[int, int]
    scaled: bool
    background: Background

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return 1 if self.grey else 3, *self.size

    def decode(self, encoded: Encoded, where: str, intake: Intake) -> NDArray[np.uint8] | None:
        """The image in CHW, or None after noting in ``intake`` why it cannot be used."""
        read = self.read(encoded, where)
        intake.note(read)
        return read.content if isinstance(read.content, np.ndarray) else None

    def read(self, encoded: Encoded, where: str) -> ImageRead:
        """The image in CHW, or why it cannot be used."""
        changes: list[str] = []
        try:
            image = self._fit(self._convert(_open(encoded, changes), changes), changes)
        except InvalidData as unusable:
            return ImageRead(where, None, problem=str(unusable))
        return ImageRead(where, self._pixels(image), tuple(changes))

    def read_encoded(self, encoded: Encoded, where: str) -> ImageRead:
        """The bytes of an image that can be decoded, or why it cannot be used. What decoding will change is noted; that
        parts of it are cropped and scaled is not."""
        changes: list[str] = []
        try:
            content = encoded.read_bytes() if isinstance(encoded, Path) else encoded
            image = self._convert(_open(content, changes, least_side=_CHECKED_SIDE), changes)
        except OSError as error:
            return ImageRead(where, None, problem=f"cannot be read: {error.strerror or error}")
        except InvalidData as unusable:
            return ImageRead(where, None, problem=str(unusable))
        return ImageRead(where, content, tuple(changes), one_colour=_is_one_colour(image))

    def part(self, encoded: bytes, box_of: Callable[[int, int], Box]) -> NDArray[np.uint8]:
        """The part of an encoded image within the box that ``box_of`` gives for its width and height, scaled to
        ``size``, in CHW. Raises InvalidData for what cannot be decoded."""
        height, width = self.size
        image = self._convert(_open(encoded, [], least_side=2 * max(height, width)), [])
        box = box_of(*image.size)
        return self._pixels(image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        array_HW_or_HWC = np.asarray(image, dtype=np.uint8)
        return array_HW_or_HWC[None] if self.grey else array_HW_or_HWC.transpose(2, 0, 1)

    def _convert(self, image: Image.Image, changes: list[str]) -> Image.Image:
        grey = image.mode in _GREY
        if image.has_transparency_data:
            image = _over_background(image, self.background, changes)
        if self.grey and not grey and not _is_grey(image):
            if not self.forced:
                raise InvalidData(
                    "expected a grey image as the first one is, got colour; set the parameter channels to 3, or to 1 "
                    "to make all images grey"
                )
            changes.append("colour to grey")
        if not self.grey and grey:
            changes.append("grey to three equal channels")
        if image.mode in ("CMYK", "YCbCr", "HSV"):
            changes.append(f"{image.mode} to RGB")
        mode = "L" if self.grey else "RGB"
        return image if image.mode == mode else image.convert(mode)  # which copies what is of the mode already

    def _fit(self, image: Image.Image, changes: list[str]) -> Image.Image:
        (width, height), (final_height, final_width) = image.size, self.size
        if self.scaled:
            changes.extend(changes_to(height, width, self.size))
            return ImageOps.fit(image, (final_width, final_height), Image.Resampling.BILINEAR)
        if (height, width) != self.size:
            raise InvalidData(
                f"expected {final_width}x{final_height} pixels as in the first image, got {width}x{height}; set "
                "the parameter image_size to scale all images to one size"
            )
        return image  # ``splits.build`` crops what is not square, whatever the source


def format_of(images: Iterable[tuple[Encoded, str]], params: ImageParams) -> ImageFormat:
    """The format by ``params``, and what they leave open by the first image that can be decoded.

    Raises InvalidData naming the first image where none can.
    """
    refusal = InvalidData("expected images, got none")
    for at, (encoded, where) in enumerate(images):
        try:
            first = _open(encoded, [])
        except InvalidData as unusable:
            refusal = refusal if at else InvalidData(f"{where}: {unusable}")
            continue
        return ImageFormat(
            grey=(params.channels or (1 if first.mode in _GREY else 3)) == 1,
            forced=params.channels is not None,
            size=params.scaled_size or (first.height, first.width),
            scaled=params.scaled_size is not None,
            background=params.background,
        )
    raise refusal


def image_shape(image_format: ImageFormat, classes: int) -> ImageShape:
    """The shape of a data set's images after ``splits.build``."""
    channels, height, width = image_format.shape
    side = min(height, width)
    return ImageShape(channels, *((height, width) if image_format.scaled else (side, side)), classes)


def changes_to(height: int, width: int, size: tuple[int, int]) -> Iterator[str]:
    """What becomes of an image that is cropped and scaled to the height and width of ``size``."""
    final_height, final_width = size
    if height * final_width != width * final_height:
        shape = "square" if final_height == final_width else f"part with the shape of {final_width}x{final_height}"
        yield f"cropped to the centred {shape}"
    if min(height / final_height, width / final_width) != 1:
        yield f"scaled to {final_width}x{final_height} pixels"


def decode_all(
    images: Iterable[tuple[Encoded, str]], count: int, target: ImageFormat, intake: Intake
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The usable ones of ``count`` images, shape (N, C, H, W), and their positions. Raises DataTooLarge."""
    check_memory(f"{count} images", 2 * count * int(np.prod(target.shape)))  # as single images, and then as one array
    decoded, positions = [], []
    for at, (encoded, where) in enumerate(images):
        image = target.decode(encoded, where, intake)
        if image is not None:
            decoded.append(image)
            positions.append(at)
    images_NCHW = np.stack(decoded) if decoded else np.empty((0, *target.shape), dtype=np.uint8)
    return images_NCHW, np.array(positions, dtype=np.intp)


def decode_mask(encoded: Encoded, where: str, target: ImageFormat, intake: Intake) -> NDArray[np.uint8]:
    """A mask of class numbers (H, W) as large as the images become; all zero after noting why it cannot be used."""
    _, height, width = target.shape
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            check_pixels(*image.size)
            if image.mode not in ("L", "P", "1"):
                raise InvalidData(f"expected a grey or palette image whose pixels are class numbers, got {image.mode}")
            mask = image.convert("L") if image.mode == "1" else image.copy()
        if target.scaled:
            mask = ImageOps.fit(mask, (width, height), Image.Resampling.NEAREST)
        elif mask.size != (width, height):
            raise InvalidData(f"expected {width}x{height} pixels as its image has, got {mask.width}x{mask.height}")
    except (InvalidData, *_UNREADABLE) as error:
        intake.problem(f"{where}: the mask cannot be used: {error}")
        return np.zeros((height, width), dtype=np.uint8)
    return np.asarray(mask, dtype=np.uint8)


def is_image(path: Path) -> bool:
    """Whether a file without a known suffix begins as an image does."""
    try:
        with Image.open(path):
            return True
    except _UNREADABLE:
        return False


def _open(encoded: Encoded, changes: list[str], least_side: int | None = None) -> Image.Image:
    """The first frame, upright; of a JPEG, one that is scaled down while it is decoded as long as both sides keep
    ``least_side`` pixels. Raises InvalidData for what cannot be decoded."""
    if encoded == b"":
        raise InvalidData("expected the image's bytes, got none")
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            check_pixels(*image.size)
            if least_side is not None:
                image.draft(None, (least_side, least_side))
            image.load()
            frames = getattr(image, "n_frames", 1)  # Pillow's formats without animation lack it
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image) if turned or frames > 1 else image  # copies
    except UnidentifiedImageError as error:
        raise InvalidData("cannot be decoded (truncated, or no image): its format is unknown") from error
    except _UNREADABLE as error:
        raise InvalidData(f"cannot be decoded (truncated, or no image): {error}") from error
    if upright.mode not in _EIGHT_BITS:
        raise InvalidData(f"expected 8 bits per channel, got Pillow mode {upright.mode}")
    if frames > 1:
        changes.append("the first of several frames")
    if turned:
        changes.append("turned upright as its EXIF orientation says")
    return upright


def _over_background(image: Image.Image, background: Background, changes: list[str]) -> Image.Image:
    """Without transparency: what is transparent shows the background."""
    if image.mode in ("La", "RGBa"):  # of colours multiplied by their opacity
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    layers = image.convert("RGBA")
    lowest, _ = layers.getchannel("A").getextrema()
    if lowest == 255:
        return layers.convert("RGB")
    changes.append(f"transparency over {background}")
    return Image.alpha_composite(Image.new("RGBA", layers.size, background), layers).convert("RGB")


def _is_one_colour(image: Image.Image) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _is_grey(image: Image.Image) -> bool:
    rgb_HWC = np.asarray(image.convert("RGB"))
    return bool((rgb_HWC == rgb_HWC[..., :1]).all())

"""What people submit to add a model of their own: where it comes from, its weights, and how images enter it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.parent import Preprocessing
from nas.core.spec import Name, ResourceSpec

MODEL_SUFFIXES = (".pt2", ".onnx")
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(min_length=1, max_length=200)]


class _SpecPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class UploadedFile(_SpecPart):
    """A file that was uploaded before: its sha256, and the name that it had, whose suffix says what it is."""

    blob: Sha256
    filename: FileName

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as ``.onnx``."""
        return PurePath(self.filename).suffix.lower()


class FileSource(UploadedFile):
    """A program of ``torch.export`` (``.pt2``) or an ONNX model (``.onnx``)."""

    kind: Literal["file"] = "file"

    @model_validator(mode="after")
    def _suffix_is_known(self) -> FileSource:
        if self.suffix in MODEL_SUFFIXES:
            return self
        hint = (
            ": a pickled checkpoint runs code when it is opened; export the model with torch.export instead"
            if self.suffix in PICKLE_SUFFIXES
            else ""
        )
        raise ValueError(f"expected a file {' or '.join(MODEL_SUFFIXES)}, got {self.filename!r}{hint}")


class PreprocessingSpec(_SpecPart):
    """What a model expects of images: ``(pixel - mean) / std`` by channel, for pixel values 0 to 255."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=64)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=64)

    @property
    def value(self) -> Preprocessing:
        """The same as a value of the engine."""
        return Preprocessing(self.mean, self.std)

    @model_validator(mode="after")
    def _are_pixel_values(self) -> PreprocessingSpec:
        if len(self.mean) != len(self.std):
            raise ValueError(f"expected a mean and a std for each channel, got {len(self.mean)} and {len(self.std)}")
        if 0 < max(self.mean) <= 1:
            raise ValueError(
                f"expected mean and std of pixel values 0 to 255, got a mean of {list(self.mean)}: multiply both by 255"
            )
        return self


class ModelSpec(_SpecPart):
    """A model to add under a ``name``. Without ``preprocessing``, images are normalised by the statistics of the data
    that a search uses, which suits no trained model but one that was trained so."""

    name: Name
    source: FileSource
    preprocessing: PreprocessingSpec | None = None
    resources: ResourceSpec = Field(default_factory=ResourceSpec)

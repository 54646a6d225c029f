"""What people submit to add a model of their own: where it comes from, its weights, and how images enter it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.parent import Preprocessing
from nas.core.spec import DataSpec, Name, ResourceSpec

MODEL_SUFFIXES = (".pt2", ".onnx")
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
PICKLED_HINT = ": a pickled checkpoint runs code when it is opened; export the model with torch.export instead"

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


class WeightsFile(UploadedFile):
    """Weights by name: safetensors, or a state dict of ``torch.save`` (opened with ``weights_only``)."""

    @model_validator(mode="after")
    def _suffix_is_known(self) -> WeightsFile:
        if self.suffix not in WEIGHTS_SUFFIXES:
            raise ValueError(f"expected a file {' or '.join(WEIGHTS_SUFFIXES)}, got {self.filename!r}")
        return self


class FileSource(UploadedFile):
    """A program of ``torch.export`` (``.pt2``) or an ONNX model (``.onnx``)."""

    kind: Literal["file"] = "file"

    @property
    def label(self) -> str:
        """What to call it."""
        return self.filename

    @model_validator(mode="after")
    def _suffix_is_known(self) -> FileSource:
        if self.suffix in MODEL_SUFFIXES:
            return self
        hint = PICKLED_HINT if self.suffix in PICKLE_SUFFIXES else ""
        raise ValueError(f"expected a file {' or '.join(MODEL_SUFFIXES)}, got {self.filename!r}{hint}")


class PackageSource(_SpecPart):
    """An installed package's entry point of the group ``nas.models``."""

    kind: Literal["package"] = "package"
    entry_point: Annotated[str, Field(min_length=1, max_length=120)]

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.entry_point} of an installed package"


class TimmSource(_SpecPart):
    """A model of timm; ``pretrained``: with its published weights, which the worker downloads."""

    kind: Literal["timm"] = "timm"
    model: Annotated[str, Field(min_length=1, max_length=120)]
    pretrained: bool = True

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.model} of timm"


ModelSource = Annotated[FileSource | PackageSource | TimmSource, Field(discriminator="kind")]


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
    """A model to add under a ``name``. ``weights`` replace those of its source. With ``data``, the model is judged on
    their test images as it came; with a ``device``, it is measured there. Without ``preprocessing``, images are
    normalised as the source says (timm does), else by the statistics of the data that a search uses, which suits no
    trained model but one that was trained so."""

    name: Name
    source: ModelSource
    weights: WeightsFile | None = None
    data: DataSpec | None = None
    device: Name | None = None
    preprocessing: PreprocessingSpec | None = None
    resources: ResourceSpec = Field(default_factory=ResourceSpec)

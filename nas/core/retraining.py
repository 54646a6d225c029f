"""Training recipes in specs, and how found networks are retrained: pydantic models, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from nas.core.errors import InvalidSpec
from nas.core.tuning import Hyperparameter

TeacherName = Literal["none", "parent", "largest"]
Start = Literal["scratch", "inherited"]


class RecipeFields(BaseModel):
    """Elements of a training recipe, the same for networks that are trained alone and for supernets.

    ``ema_decay``: the weights are an exponential moving average over steps with this decay, such as 0.999; 0: those of
    the last step. ``mixup``: images are mixed in pairs, with shares of Beta(mixup, mixup); 0: not. ``cutout``: side of
    the square that is erased, as a share of the image's side; 0: none. ``min_crop_area``: RandomResizedCrop leaves at
    least this share of an image; 1: no cropping.

    How steps are computed: ``precision`` of activations, ``auto``: bfloat16 where some steps show that it is faster.
    ``micro_batches``: in how many parts, each normalised by itself, the images of a step are computed, so that they fit
    into memory; if they do not, it is doubled. ``compiled``: by ``torch.compile``, which takes minutes at the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, le=10)
    cutout: float = Field(default=0.0, ge=0, le=1)
    min_crop_area: float = Field(default=1.0, gt=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_batches: int = Field(default=1, ge=1, le=1_024)
    compiled: bool = False

    @property
    def image_changes(self) -> tuple[str, ...]:
        """The fields that say how images are changed, beyond the default augmentation."""
        used = {"mixup": self.mixup > 0, "cutout": self.cutout > 0, "min_crop_area": self.min_crop_area < 1}
        return tuple(name for name, is_used in used.items() if is_used)


class WarmedUpRecipeFields(RecipeFields):
    """A recipe whose learning rate rises over ``warmup_epochs``; None: a tenth of the epochs, two at most."""

    warmup_epochs: float | None = Field(default=None, ge=0)


HYPERPARAMETERS = {*WarmedUpRecipeFields.model_fields} - {"precision", "micro_batches", "compiled"}
"""The fields of a recipe that say what is learned, which are numbers; the others say how it is computed."""


class DistillationSpec(BaseModel):
    """How a student learns from its teacher. ``weight`` parts of the loss compare class probabilities at
    ``temperature``, the others are the loss by labels. ``features``: how much the difference between the classifiers'
    inputs counts in addition; 0: not at all. ``blocks``: of a user's model, taught by its parent: in how many blocks it
    learns the parent's features at first, each by itself, before these are merged (StableKD); 1: end to end."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    temperature: float = Field(default=4.0, gt=0, le=100)
    weight: float = Field(default=0.9, ge=0, le=1)
    features: float = Field(default=0.0, ge=0, le=100)
    blocks: int = Field(default=1, ge=1, le=64)


class TeacherSpec(BaseModel):
    """An exported model of another search: ``search`` by its id, and the id of the ``network``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    search: str = Field(min_length=1, max_length=64)
    network: str = Field(min_length=1, max_length=64)


def teacher_from_text(text: str) -> TeacherSpec | str:
    """A teacher as people write it: a name, or the ids of a search and its network as ``SEARCH/NETWORK``. Raises
    InvalidSpec if one of the two is missing."""
    search, separator, network = text.strip().partition("/")
    if not separator:
        return search
    if not search or not network:
        raise InvalidSpec(f"teacher: expected none, parent, largest or SEARCH/NETWORK, got {text!r}")
    return TeacherSpec(search=search, network=network)


def teacher_as_text(teacher: TeacherName | TeacherSpec) -> str:
    """Inverse of ``teacher_from_text``."""
    return f"{teacher.search}/{teacher.network}" if isinstance(teacher, TeacherSpec) else teacher


def _teacher_kind(value: object) -> str:
    return "model" if isinstance(value, dict | TeacherSpec) else "name"


class RetrainSpec(WarmedUpRecipeFields):
    """Training the found networks further, each alone, before they are verified; with their own weights they are
    verified and exported. ``networks``: the most of the search's front, and of its random baseline's, that are trained.
    ``trials``: trainings of each, with other hyperparameters, of which the hopeless are stopped early. ``seeds``: how
    often the best hyperparameters of each are trained in all; what is reported is the mean. ``stop_dominated``: after
    each trial, the half of the networks that others dominate most get no more of them.

    ``start``: from scratch, or with the weights inherited from the supernet or from the model that the space starts
    from; None: inherited where there is such a model, else from scratch. ``teacher``: whose outputs the networks learn
    to have: ``parent``, the model that the space starts from; ``largest``, the supernet's largest network; or an
    exported model of another search.

    ``lr``, ``weight_decay`` and ``augmentation`` (strength of the default augmentation): None: trials vary them.
    ``drop_path``: with which probability an operation gives nothing for an image at the end of training, from 0 at its
    beginning. ``auxiliary``: how much the loss of a second classifier counts, in the middle of the network. None: as
    published with the space, which is none but for large networks of cells.

    ``quantised_epochs``: the last so many epochs are computed with the rounding of the search's precision, so that the
    weights adapt to it (quantisation-aware training); for searches in int8 or mixed precision."""

    networks: int = Field(default=8, ge=1, le=1_000)
    epochs: int = Field(default=60, ge=1, le=100_000)
    trials: int = Field(default=4, ge=1, le=1_000)
    seeds: int = Field(default=1, ge=1, le=100)
    stop_dominated: bool = True
    batch_size: int = Field(default=64, ge=2, le=65_536)
    start: Start | None = None
    teacher: Annotated[
        Annotated[TeacherName, Tag("name")] | Annotated[TeacherSpec, Tag("model")], Discriminator(_teacher_kind)
    ] = "none"
    distillation: DistillationSpec = Field(default_factory=DistillationSpec)
    lr: float | None = Field(default=None, gt=0, le=10)
    weight_decay: float | None = Field(default=None, ge=0, le=1)
    augmentation: float | None = Field(default=None, ge=0, le=5)
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    auxiliary: float | None = Field(default=None, ge=0, le=10)
    quantised_epochs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> RetrainSpec:
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs: expected less than epochs, which is {self.epochs}, got {self.warmup_epochs:g}"
            )
        if self.quantised_epochs > self.epochs:
            raise ValueError(
                f"quantised_epochs: expected at most epochs, which is {self.epochs}, got {self.quantised_epochs}"
            )
        if self.quantised_epochs and self.compiled:
            raise ValueError("compiled: expected false with quantised_epochs, in which layers compute otherwise")
        if self.teacher == "none" and self.distillation != DistillationSpec():
            raise ValueError("distillation: expected a teacher to learn from, got teacher 'none'")
        if self.distillation.blocks > 1 and self.teacher != "parent":
            raise ValueError(
                f"distillation.blocks: expected teacher 'parent', whose blocks a student shares, or 1 block, got "
                f"{self.distillation.blocks} blocks and teacher {teacher_as_text(self.teacher)!r}"
            )
        return self

    def hyperparameters(self, inherits: bool) -> tuple[Hyperparameter, ...]:
        """What trials vary. Weights that have learned already (``inherits``) take smaller learning rates."""
        lr = (0.003, 0.1, 0.03) if inherits else (0.01, 0.4, 0.1)
        varied = (
            Hyperparameter("lr", *lr, log=True),
            Hyperparameter("weight_decay", 3e-6, 3e-3, default=1e-4, log=True),
            Hyperparameter("augmentation", 0.0, 2.0, default=1.0),
        )
        fixed = {"lr": self.lr, "weight_decay": self.weight_decay, "augmentation": self.augmentation}
        return tuple(h if (value := fixed[h.name]) is None else h.fixed(value) for h in varied)


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights of an exported network came about, for its manifest and model card. ``start``: ``supernet`` where
    they are those that the network inherited. ``teacher``: in words, with its quality on validation images;
    ``recipe``: hyperparameters by name. ``supernet``: how its training was computed, by ``precision``,
    ``micro_batches`` and ``ranks``; empty where it is not recorded."""

    start: Literal["supernet", "scratch", "inherited"]
    epochs: int | None = None
    teacher: str | None = None
    teacher_quality: float | None = None
    recipe: Mapping[str, float | None] = field(default_factory=dict)
    supernet: Mapping[str, str | int] = field(default_factory=dict)

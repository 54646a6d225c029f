"""Compress a user's trained model: cut what distorts its outputs least for the latency that it saves, search around
that, and retrain what is found."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.ports import Problem, SearchSpace, Stage
from nas.core.retraining import RecipeFields
from nas.core.spec import SearchSpec, parse_spec
from nas.stages.closing import closing_stage_names, closing_stages

_ROUNDS = 8  # of exploring; the first scores the networks of the sensitivity stage
_PRESETS: dict[str, dict[str, int]] = {
    "no_training": {"images": 32, "levels": 2, "fine_tune_epochs": 0, "adapt_images": 0},
    "best": {"images": 128, "levels": 3, "fine_tune_epochs": 0, "adapt_images": 2_400},
}


class CompressParams(RecipeFields):
    """``preset``: no training at all, in seconds, or networks that are adapted before they are judged, and retrained.
    It sets ``images``, ``levels``, ``fine_tune_epochs`` and ``adapt_images``; explicit options win.

    ``importance`` decides which units a narrower network keeps. ``first_networks``: the methods whose networks are
    scored first. Sensitivity is measured on ``images`` training images, for at most ``levels`` smaller choices of each
    decision. ``fine_tune_epochs``: training of all networks together by the sandwich rule, taught by the parent's
    outputs, before exploring, by the recipe; ``lr`` is for ``batch_size`` images. ``adapt_images``: images on which
    each network is trained before it is scored (``nas.stages.adaptation``).
    """

    preset: Literal["no_training", "best"] = "best"
    importance: Literal["taylor", "l2", "batch_norm_scale", "trainable_gate", "bip"] = "taylor"
    first_networks: list[Literal["least_distortion", "pre_cropping", "layer_tickets"]] = Field(
        default=["least_distortion"], min_length=1, max_length=3
    )
    images: int = Field(default=128, ge=2, le=100_000)
    levels: int = Field(default=3, ge=1, le=64)
    fine_tune_epochs: int = Field(default=0, ge=0, le=100_000)
    adapt_images: int = Field(default=2_400, ge=0, le=100_000_000)
    batch_size: int = Field(default=32, ge=2, le=65_536)
    lr: float = Field(default=0.01, gt=0, le=10)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)
    checkpoint_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, record: Any) -> Any:
        if not isinstance(record, dict):
            return record
        preset = _PRESETS.get(str(record.get("preset", "best")), {})
        return {**preset, **record}

    @model_validator(mode="after")
    def _preset_holds(self) -> CompressParams:
        for name in ("fine_tune_epochs", "adapt_images"):
            if self.preset == "no_training" and (value := getattr(self, name)) > 0:
                raise ValueError(f"preset no_training trains nothing: expected {name} 0, or preset best; got {value}")
        return self


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for a space without a trained network, and for a preset that the spec contradicts."""
    params = parse_spec(CompressParams, spec.strategy.params)
    if space.pretrained_genes is None:
        raise InvalidSpec(
            f"strategy compress starts from a trained model: expected a space of your model, such as "
            f"{{name: own_model, model: NAME}}, got {space.name!r}"
        )
    if spec.supernet is not None:  # an extension trains nothing
        return
    if params.image_changes and not spec.task.movable:
        raise InvalidSpec(
            f"strategy.params.{params.image_changes[0]}: expected none, since labels of the task {spec.task.name!r} "
            "belong to images as they are"
        )
    if params.preset == "no_training" and spec.retrain is not None:
        raise InvalidSpec("retrain: preset no_training trains nothing: expected no retrain, or preset best")
    if params.preset == "best" and spec.retrain is None:
        raise InvalidSpec(
            "retrain: preset best retrains the networks that it finds: expected `retrain`, such as {networks: 4, "
            "epochs: 20, start: inherited, teacher: parent}, or preset no_training; got none"
        )


def stages(problem: Problem) -> tuple[Stage, ...]:
    """All stages of a search. Raises InvalidSpec as ``check``."""
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.sensitivity import SensitivityStage
    from nas.stages.train import TrainStage
    from nas.training import samplers
    from nas.training.progressive import SupernetRecipe
    from nas.training.recipe import with_fields
    from nas.training.schedules import sandwich

    check(problem.spec, problem.space)
    params, images = parse_spec(CompressParams, problem.spec.strategy.params), len(problem.data.train)
    adapts = problem.spec.retrain is not None and problem.spec.inherits_weights
    adapt_images = params.adapt_images if adapts else 0
    share = math.ceil(problem.spec.budget.evaluations / _ROUNDS)
    sensitivity = SensitivityStage(
        params.importance,
        min(params.images, images),
        params.levels,
        budgets=max(4, share) if adapt_images else max(_ROUNDS, share),
        near_copies=adapt_images > 0,  # they are good only once they are trained
        first=tuple(params.first_networks),
    )
    train: tuple[Stage, ...] = ()
    if params.fine_tune_epochs > 0:
        recipe = SupernetRecipe(
            phases=sandwich(params.fine_tune_epochs, params.lr, samplers.axes(problem.space.decisions)),
            batch_size=min(params.batch_size, images),
            weight_decay=params.weight_decay,
        )
        train = (TrainStage(with_fields(recipe, params), params.checkpoint_s),)
    return (
        EstimateStage(),
        sensitivity,
        *train,
        ExploreStage(rounds=_ROUNDS, adapt_images=adapt_images, rescore=not adapt_images and params.adapt_images > 0),
        *closing_stages(problem.spec, adapt_images),
    )


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of ``stages``. Raises InvalidSpec for wrong parameters."""
    train = ("train",) if trains(spec) else ()
    return ("estimate", "sensitivity", *train, "explore", *closing_stage_names(spec))


def trains(spec: SearchSpec) -> bool:
    """Whether all networks are trained together. Raises InvalidSpec for wrong parameters."""
    return parse_spec(CompressParams, spec.strategy.params).fine_tune_epochs > 0


COMPRESS = Strategy(
    "compress",
    "Compress a trained model of yours: cut what distorts it least for its latency, then retrain what is found.",
    CompressParams,
    stages,
    stage_names,
    check,
    model_only=True,
    uses_several_gpus=lambda spec: trains(spec) or spec.retrain is not None,  # trials run one on each
    trains_on_ranks=trains,
)

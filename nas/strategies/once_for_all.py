"""Once-for-all (Cai et al., ICLR 2020): train one supernet for every network of the space, then search it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.ports import Problem, SearchSpace, Stage
from nas.core.rank_correlation import check_rank_networks, rank_networks_of
from nas.core.retraining import WarmedUpRecipeFields
from nas.core.spec import SearchSpec, parse_spec
from nas.explorers.automatic import ExplorerName
from nas.stages.closing import closing_stage_names, closing_stages
from nas.strategies.proxy_options import ProxyName, check_proxies
from nas.training.schedules import SCHEDULES, uniform

# Networks that a step trains, on average over a training of a dozen epochs or more: the fewest of any space, rounded
# down to halves.
_FEWEST_SUBNETS = {
    "progressive": 1.5,
    "published": 1.5,
    "sandwich": 4.0,
    "delayed": 2.5,
    "nested": 1.0,
    "attentive_best": 4.0,
    "attentive_worst": 4.0,
    "alpha": 4.0,
    "curriculum": 4.0,
    "coordinated": 3.5,
}
ScheduleName = Literal[
    "progressive",
    "published",
    "sandwich",
    "delayed",
    "nested",
    "attentive_best",
    "attentive_worst",
    "alpha",
    "curriculum",
    "coordinated",
]


class OnceForAllParams(WarmedUpRecipeFields):
    """``schedule``: how the supernet is trained. ``progressive``: progressive shrinking, ``published`` with the lengths
    and learning rates of the paper, which are for hundreds of epochs. ``sandwich``: the largest, the smallest and two
    other networks in each step. The others change the sandwich rule: ``delayed`` begins it after half of the epochs
    (DepS), ``attentive_best`` and ``attentive_worst`` choose its random networks by their loss (AttentiveNAS),
    ``alpha`` lets networks learn by the alpha divergence (AlphaNet), ``curriculum`` begins at small resolutions,
    ``coordinated`` lets every network learn from the next larger one (Scala). ``nested``: one network of a ladder in
    each step (SortedNet). ``lr`` is for ``batch_size`` images.

    ``epochs`` are epochs over the training images in all phases together. ``explorer`` decides which networks are
    scored: NSGA-II over a ridge regression of accuracy, or a Gaussian process that also asks where it is unsure; by
    default the process, unless evaluations are so many that it is not worth its time. The process also learns from
    zero-cost ``proxies``, by which ``proxy_networks`` random networks are scored.

    ``rank_networks`` are trained from scratch, for ``rank_epochs`` each, to see how far the ranking can be trusted; 0:
    none. By default a dozen, if that takes less than a tenth of the supernet's training.
    """

    schedule: ScheduleName = "progressive"
    epochs: int = Field(default=45, ge=1, le=100_000)
    batch_size: int = Field(default=64, ge=2, le=65_536)
    lr: float = Field(default=0.1, gt=0, le=10)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)
    distillation: float = Field(default=1.0, ge=0, le=100)
    checkpoint_s: float = Field(default=10.0, gt=0)
    explorer: ExplorerName = "auto"
    proxies: list[ProxyName] = Field(default_factory=list)
    proxy_networks: int = Field(default=128, ge=8, le=10_000)
    proxy_images: int = Field(default=32, ge=2, le=4_096)
    rank_networks: int | None = Field(default=None, ge=0, le=1_000)
    rank_epochs: int = Field(default=4, ge=1, le=100_000)

    @property
    def ranked(self) -> int:
        """How many networks are trained alone to see how well the supernet ranks."""
        per_step = _FEWEST_SUBNETS[self.schedule]
        return rank_networks_of(self.rank_networks, self.rank_epochs, self.epochs * per_step)

    @model_validator(mode="after")
    def _warm_up_ends(self) -> OnceForAllParams:
        first_phase = SCHEDULES[self.schedule](self.epochs, self.lr, set())[0].epochs
        if self.warmup_epochs is not None and self.warmup_epochs >= first_phase:
            raise ValueError(
                f"warmup_epochs: expected less than the epochs of the first phase, which are {first_phase}, got "
                f"{self.warmup_epochs:g}"
            )
        return self

    @model_validator(mode="after")
    def _proxies_are_read(self) -> OnceForAllParams:
        check_proxies(self.proxies)
        check_rank_networks(self.rank_networks)
        if self.proxies and self.explorer == "nsga2":
            raise ValueError(f"proxies: only the explorer 'bayesian' learns from them, got {self.explorer!r}")
        return self


def stages(problem: Problem) -> tuple[Stage, ...]:
    """All stages of a search. Raises InvalidSpec for wrong parameters."""
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.ladder import LadderStage
    from nas.stages.proxies import ProxyStage
    from nas.stages.rank_correlation import RankCorrelationStage
    from nas.stages.train import TrainStage
    from nas.training import samplers
    from nas.training.progressive import SupernetRecipe
    from nas.training.recipe import with_fields

    params = parse_spec(OnceForAllParams, problem.spec.strategy.params)
    axes = samplers.axes(problem.space.decisions)
    phases = SCHEDULES[params.schedule](params.epochs, params.lr, axes)
    if params.warmup_epochs is not None:
        phases = (replace(phases[0], warmup_epochs=params.warmup_epochs), *phases[1:])
    recipe = SupernetRecipe(
        phases=phases,
        batch_size=min(params.batch_size, len(problem.data.train)),
        weight_decay=params.weight_decay,
        distillation=params.distillation,
    )
    recipe = with_fields(recipe, params)
    explore = ExploreStage(explorer="bayesian" if params.proxies else params.explorer)
    images = min(params.proxy_images, len(problem.data.train))
    hints = (ProxyStage(tuple(params.proxies), False, params.proxy_networks, images),) if params.proxies else ()
    train = TrainStage(recipe, params.checkpoint_s)
    standalone = replace(recipe, phases=uniform(params.rank_epochs, params.lr, axes, 1), distillation=0.0)
    rank = (RankCorrelationStage(standalone, params.ranked),) if params.ranked else ()
    ladder = (LadderStage(),) if params.schedule == "nested" else ()
    return (EstimateStage(), train, *rank, *ladder, *hints, explore, *closing_stages(problem.spec))


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of ``stages``. Raises InvalidSpec for wrong parameters."""
    params = parse_spec(OnceForAllParams, spec.strategy.params)
    hints = ("proxies",) if params.proxies else ()
    rank = ("rank_correlation",) if params.ranked else ()
    ladder = ("ladder",) if params.schedule == "nested" else ()
    return ("estimate", "train", *rank, *ladder, *hints, "explore", *closing_stage_names(spec))


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for changes of images that the labels of the task do not survive, for the alpha divergence
    where networks do not choose between classes, and for a curriculum without resolutions to choose from."""
    params = parse_spec(OnceForAllParams, spec.strategy.params)
    _check_schedule(params.schedule, spec, space)
    changed = params.image_changes
    if changed and not spec.task.movable:
        raise InvalidSpec(
            f"strategy.params.{changed[0]}: expected none, since labels of the task {spec.task.name!r} belong to "
            "images as they are"
        )


def _check_schedule(schedule: ScheduleName, spec: SearchSpec, space: SearchSpace) -> None:
    if schedule == "alpha" and spec.task.labels != "class":
        raise InvalidSpec(
            f"strategy.params.schedule: 'alpha' compares probabilities of classes: expected a task whose labels are "
            f"classes, got {spec.task.name!r}"
        )
    resolutions = [d for d in space.decisions if d.axis == "resolution" and len(d.choices) > 1]
    if schedule == "curriculum" and not resolutions:
        raise InvalidSpec(
            f"strategy.params.schedule: 'curriculum' expects a space with several resolutions, got {space.name!r} "
            "with one"
        )


ONCE_FOR_ALL = Strategy(
    "once_for_all",
    "Once-for-all: train one supernet for every network of the space, then search it.",
    OnceForAllParams,
    stages,
    stage_names,
    check,
    uses_several_gpus=lambda spec: True,
    trains_on_ranks=lambda spec: True,
)

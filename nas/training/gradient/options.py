"""The options of a differentiable search: one flat set of options, presets by their papers' names, and which options
exclude each other. These are lists to be read together, so the file may be longer than others. No torch."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.errors import InvalidSpec
from nas.core.ports import RelaxedSpace
from nas.training.gradient.early_stopping import PUBLISHED_EPOCHS, can_stop, scaled

Preset = Literal[
    "darts",
    "darts2",
    "gdas",
    "snas",
    "rdarts",
    "darts_pt",
    "sd_darts",
    "small_temperature",
    "gold",
    "la_darts",
    "pc_darts",
    "proxyless",
    "drnas",
    "beta_darts",
    "tangle_nas",
    "modnas",
]
PLAIN = ("darts", "darts2")  # without any repair
EXPERIMENTAL = ("snas", "beta_darts")  # worse than random search in ``benchmarks.nb201_search``

# What each preset changes of the defaults, which are those of DARTS (Liu et al., ICLR 2019), first order, as published.
# Counts of epochs (``EPOCH_COUNTS``, ``alpha_warmup``) are for 50 epochs and scale with ``epochs``; what follows the
# budget of steps (``FOLLOWING``) is chosen in ``rates.py``.
PRESETS: dict[str, dict[str, str | float | bool]] = {
    "darts": {},
    "darts2": {"order": "second"},
    "gdas": {  # Dong and Yang, CVPR 2019
        "relaxation": "gumbel_hard",
        "temperature": "linear",
        "temperature_start": 10.0,
        "temperature_end": 0.1,
        "weights_first": True,
        "nesterov": True,
        "weight_decay": 5e-4,
    },
    "snas": {  # Xie et al., ICLR 2019
        "order": "one_level",
        "relaxation": "gumbel_soft",
        "temperature": "linear",
        "temperature_end": 0.03,
    },
    "rdarts": {"probe_every": 2, "early_stop": True, "weight_decay": 2.7e-3},  # Zela et al., ICLR 2020
    "darts_pt": {"selection": "perturbation", "select_epochs": 5},  # Wang et al., ICLR 2021
    "sd_darts": {"teachers": 3, "teacher_warmup": 5, "probe_every": 10},  # what it is to flatten is measured
    "small_temperature": {
        "relaxation": "sparse_noisy",
        "temperature": "exponential",
        "temperature_end": 0.03,
        "noise": 0.5,
    },
    "gold": {  # Bi et al., GOLD-NAS, 2020
        "order": "one_level",
        "relaxation": "sigmoid",
        "prune": True,
        "alpha_optimiser": "sgd",
        "alpha_lr": 1.0,
        "alpha_weight_decay": 0.0,
        "lr": 0.01,
        "lr_end": 0.01,
    },
    "la_darts": {"latency_weight": 0.1},
    "pc_darts": {  # Xu et al., ICLR 2020
        "partial": 4,
        "alpha_warmup": 15,
        "alpha_lr": 6e-4,
        "lr": 0.1,
        "lr_end": 0.0,
    },
    "proxyless": {  # Cai et al., ProxylessNAS, ICLR 2019
        "relaxation": "binary",
        "weights_first": True,
        "nesterov": True,
        "lr_end": 0.0,
        "weight_decay": 4e-5,
        "alpha_lr": 1e-3,
        "alpha_momentum": 0.0,
        "alpha_weight_decay": 0.0,
        "latency_weight": 0.1,
    },
    "drnas": {"relaxation": "dirichlet", "anchor_weight": 1e-3, "alpha_lr": 6e-4},  # Chen et al., ICLR 2021
    "beta_darts": {"beta_decay": 50.0},  # Ye et al., CVPR 2022
    "tangle_nas": {  # Sukthanker et al., AutoML 2024, with the mixture weights of DrNAS
        "relaxation": "dirichlet",
        "anchor_weight": 1e-3,
        "alpha_lr": 6e-4,
        "entangled": True,
    },
    "modnas": {"hypernetwork": True},  # Sukthanker et al., MODNAS, ICLR 2025
}


# Counts of epochs in presets, and the least that a scaled one may be.
EPOCH_COUNTS = {"probe_every": 1, "teacher_warmup": 1, "select_epochs": 1}
# Options that follow the step budget where the spec leaves them open.
FOLLOWING = ("lr", "lr_end", "alpha_lr", "alpha_warmup", "partial", "temperature_end", "all_paths")


class DartsParams(BaseModel):
    """``preset`` sets the options of a method by name; explicit options win. Its counts of epochs (``alpha_warmup``,
    ``teacher_warmup``, ``probe_every``, ``select_epochs``) are those of 50 epochs, and scale with ``epochs``. Options
    that are null by default follow the number of steps: as published, and in shorter searches as fast as they need to
    be (``rates.py``).

    ``epochs`` are passes over the weights' half of the training images; ``tune_epochs`` follow the search and train
    single networks drawn around what it found, so that inherited weights can score them. ``order``: how the
    architecture parameters are learned: on held-out images by the first-order or second-order gradient, or together
    with the weights (one level); ``exact_hessian``: the second order's mixed second derivative is no finite
    difference, as published, but exact, for more memory. ``temperature`` is constant, moves to its end linearly or
    exponentially over the epochs, or follows the entropy of their softmax. ``relaxation`` binary: the weights learn
    one drawn path at a time, the architecture parameters two. ``alpha_momentum`` is Adam's first moment. ``noise`` is
    that of the sparse-noisy softmax. ``weight_decay`` is that of the weights. ``probe_every``: epochs between two
    looks at the dominant eigenvalue of the architecture parameters' Hessian, 0 for never; ``early_stop`` ends the
    search where it grows. ``collapse``: what to do when identities take over (``skip_limit``: their share of the
    cell) or the eigenvalue runs away. ``selection``: the network is read off the architecture parameters, or selected
    by perturbation, with ``select_epochs`` of training after each decision. ``teachers``: earlier states of the
    supernet that teach it. ``prune``: gradually, under a growing penalty, until ``prune_until`` of the operations are
    left. ``partial``: 1/K of the channels are mixed. ``latency_weight``: strength of the latency loss; with a bound
    on latency it grows until the bound is met. ``rank_networks`` are trained from scratch, for ``rank_epochs`` each,
    to see how far the supernet's ranking can be trusted; 0: none. By default a dozen, if that takes less than a tenth
    of the search's training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    preset: Preset = Field(
        default="darts",
        description=f"options of a method, by its paper's name; experimental: {' and '.join(EXPERIMENTAL)}",
    )
    epochs: int = Field(default=50, ge=1, le=10_000)
    tune_epochs: int = Field(default=5, ge=0, le=10_000)
    seeds: int = Field(default=1, ge=1, le=32)
    batch_size: int = Field(default=64, ge=2, le=65_536)
    checkpoint_s: float = Field(default=10.0, gt=0)
    deterministic: bool = False
    rank_networks: int | None = Field(default=None, ge=0, le=1_000)
    rank_epochs: int = Field(default=4, ge=1, le=10_000)

    order: Literal["first", "second", "one_level"] = "first"
    exact_hessian: bool = False
    weights_first: bool = False
    lr: float | None = Field(default=None, gt=0, le=10)
    lr_end: float | None = Field(default=None, ge=0, le=10)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=3e-4, ge=0, le=1)
    clip_norm: float = Field(default=5.0, gt=0)
    alpha_optimiser: Literal["adam", "sgd"] = "adam"
    alpha_lr: float | None = Field(default=None, ge=0, le=100)
    alpha_momentum: float = Field(default=0.5, ge=0, lt=1)
    alpha_weight_decay: float = Field(default=1e-3, ge=0, le=1)
    alpha_warmup: int | None = Field(default=None, ge=0)

    relaxation: Literal["softmax", "gumbel_soft", "gumbel_hard", "sparse_noisy", "sigmoid", "binary", "dirichlet"] = (
        "softmax"
    )
    temperature: Literal["constant", "linear", "exponential", "entropy"] = "constant"
    temperature_start: float = Field(default=1.0, gt=0, le=100)
    temperature_end: float | None = Field(default=None, gt=0, le=100)
    noise: float = Field(default=0.0, ge=0, le=10)
    anchor_weight: float = Field(default=0.0, ge=0, le=100)
    beta_decay: float = Field(default=0.0, ge=0, le=10_000)
    entangled: bool = False
    all_paths: bool | None = Field(
        default=None, description="gumbel_hard: compute all operations, not only the drawn one"
    )

    probe_every: int = Field(default=0, ge=0)
    early_stop: bool = False
    roll_backs: int = Field(
        default=0,
        ge=0,
        le=10,
        description="how often an early stop goes back and goes on with ten times the weight decay instead of ending",
    )
    drop_path: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability by which edges of cells are left out at the end of the search, rising from 0",
    )
    collapse: Literal["warn", "regularise", "stop"] = "warn"
    skip_limit: float = Field(default=0.5, gt=0, le=1)

    selection: Literal["argmax", "perturbation"] = "argmax"
    select_epochs: int = Field(default=5, ge=0, le=1000)

    teachers: int = Field(default=0, ge=0, le=16)
    teacher_every: int = Field(default=1, ge=1)
    teacher_warmup: int = Field(default=5, ge=0)
    teacher_weight: float = Field(default=1.0, ge=0, le=100)
    teacher_temperature: float = Field(default=2.0, gt=0, le=100)
    teacher_vote: Literal["soft", "majority"] = "soft"

    prune: bool = False
    prune_until: float = Field(default=0.2, gt=0, lt=1)
    prune_cost: float = Field(default=1.0, ge=0, description="weight of an operation's cost beside its mere presence")
    prune_weight: float = Field(default=1e-5, gt=0, description="what the penalty starts from")

    resource: Literal["macs", "params", "latency"] = Field(
        default="macs", description="what an operation costs, in the penalty of pruning and in the expected cost"
    )
    resource_weight: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="weight of the expected cost of networks drawn from the relaxation, which is 1 for uniform draws",
    )

    partial: int | None = Field(default=None, ge=1, le=16)
    progressive: bool = Field(
        default=False,
        description="after half of the epochs, go on with the better half of the operations and twice as many channels",
    )
    latency_weight: float = Field(default=0.0, ge=0, le=1000)
    latency_samples: int = Field(default=4, ge=1, le=256)
    hypernetwork: bool = Field(
        default=False, description="learn the architecture parameters of all trade-offs on all devices"
    )
    hypernetwork_lr: float = Field(default=3e-3, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(name := values.get("preset", "darts"), str):
            return values
        preset = {option: v for option, v in PRESETS.get(name, {}).items() if option not in FOLLOWING}
        epochs = values.get("epochs", PUBLISHED_EPOCHS)
        if isinstance(epochs, int):
            for option, least in EPOCH_COUNTS.items():
                if option in preset:
                    preset[option] = max(least, scaled(int(preset[option]), epochs))
        return {**preset, **values}

    @model_validator(mode="after")
    def _options_agree(self) -> DartsParams:
        if problems := [why for wrong, why in conflicts(self) if wrong]:
            raise ValueError("; ".join(problems))
        return self


def conflicts(p: DartsParams) -> list[tuple[bool, str]]:
    """Every combination that means nothing: whether ``p`` has it, and why it is refused."""
    hard, sigmoid, binary = (p.relaxation == r for r in ("gumbel_hard", "sigmoid", "binary"))
    frozen = p.alpha_lr == 0
    warmup = p.alpha_warmup or 0
    cooled = p.temperature != "constant"
    end = 1.0 if p.temperature_end is None else p.temperature_end
    few_ranked = p.rank_networks is not None and 0 < p.rank_networks < 4
    return [
        (few_ranked, f"rank_networks: expected 0, or at least 4 for a ranking, got {p.rank_networks}"),
        (p.prune != sigmoid, "prune and the relaxation sigmoid belong together: expected both or neither"),
        (p.prune and p.order != "one_level", f"prune learns at one level: expected order one_level, got {p.order}"),
        (
            p.prune and p.selection == "perturbation",
            "prune leaves nothing to select: expected selection argmax, got perturbation",
        ),
        (p.prune and p.teachers > 0, "pruning changes the function that teachers would teach: expected teachers 0"),
        (p.prune and p.latency_weight > 0, "prune has a penalty of its own: expected latency_weight 0"),
        (
            p.order == "second" and hard,
            "the second order differentiates along weights, and drawn operations are not differentiable: expected "
            "order first with gumbel_hard",
        ),
        (p.exact_hessian and p.order != "second", f"exact_hessian is for order second, got {p.order}"),
        (bool(p.all_paths) and not hard, f"all_paths is for gumbel_hard, got relaxation {p.relaxation}"),
        (p.noise > 0 and p.relaxation != "sparse_noisy", f"noise is for sparse_noisy, got relaxation {p.relaxation}"),
        (
            binary and p.order != "first",
            f"binary compares two paths on held-out images: expected order first, got {p.order}",
        ),
        (binary and cooled, "binary draws by the architecture parameters themselves: expected temperature constant"),
        (sigmoid and cooled, "sigmoid knows no temperature: expected temperature constant"),
        (
            not cooled and end != p.temperature_start and end != 1.0,
            "temperature_end needs a temperature that moves: expected linear, exponential or entropy, got constant",
        ),
        (p.early_stop and p.probe_every == 0, "early_stop looks at eigenvalues: expected probe_every of at least 1"),
        (p.roll_backs > 0 and not p.early_stop, "roll_backs go on after an early stop: expected early_stop true"),
        (p.roll_backs > 0 and p.teachers > 0, "roll_backs would leave teachers of later epochs: expected teachers 0"),
        (
            p.early_stop and p.probe_every > 0 and not can_stop(p.epochs, p.probe_every, warmup),
            f"early_stop cannot stop within {p.epochs} epochs at probe_every {p.probe_every}: expected more epochs "
            "or a smaller probe_every",
        ),
        (
            warmup >= p.epochs and not frozen,
            f"alpha_warmup leaves no epoch for the architecture parameters: expected less than {p.epochs} epochs, got "
            f"{warmup}",
        ),
        (
            p.teachers > 0 and p.teacher_weight > 0 and first_teacher(p) >= p.epochs,
            f"teachers would never teach: the first is from epoch {first_teacher(p)} of {p.epochs}; expected a smaller "
            "teacher_warmup or teacher_every",
        ),
        (p.early_stop and frozen, "early_stop needs architecture parameters that learn: expected alpha_lr above 0"),
        (
            p.probe_every > 0 and frozen,
            "probe_every needs architecture parameters that learn: expected alpha_lr above 0",
        ),
        (
            p.early_stop and p.selection == "perturbation",
            "perturbation would judge the sharp supernet that early_stop rejects: expected one of them",
        ),
        (
            p.probe_every > 0 and p.prune,
            "eigenvalues of a relaxation that is being pruned cannot be compared: expected probe_every 0",
        ),
        (
            p.resource_weight > 0 and p.prune,
            "prune has a penalty of its own, of which resource says the cost: expected resource_weight 0",
        ),
        (
            p.resource_weight > 0 and frozen,
            "resource_weight needs architecture parameters that learn: expected alpha_lr above 0",
        ),
        (
            p.resource != "macs" and not p.prune and p.resource_weight == 0,
            f"resource is for prune and resource_weight, of which there is neither: expected macs, got {p.resource}",
        ),
        ((p.partial or 1) > 1 and p.prune, "prune needs whole channels: expected partial 1"),
        (
            p.progressive and (p.partial or 1) % 2 != 0,
            f"progressive mixes twice as many channels later: expected an even partial, such as 4, got {p.partial}",
        ),
        (p.progressive and p.epochs < 2, f"progressive has two stages: expected at least 2 epochs, got {p.epochs}"),
        (
            p.progressive and p.probe_every > 0,
            "eigenvalues of the two stages of progressive cannot be compared: expected probe_every 0",
        ),
        (
            p.progressive and p.hypernetwork,
            "progressive removes operations for all devices: expected hypernetwork false",
        ),
        (p.progressive and frozen, "progressive needs architecture parameters that learn: expected alpha_lr above 0"),
        (
            p.progressive and not frozen and warmup >= p.epochs // 2,
            f"progressive decides after epoch {p.epochs // 2}: expected a shorter alpha_warmup than {warmup} epochs",
        ),
        (
            p.weights_first and p.order == "one_level",
            "weights_first means nothing where architecture parameters and weights learn together",
        ),
        (
            p.latency_weight > 0 and frozen,
            "latency_weight needs architecture parameters that learn: expected alpha_lr above 0",
        ),
        (
            p.lr is not None and p.lr_end is not None and p.lr_end > p.lr,
            f"lr_end must not be above lr: expected at most {p.lr}, got {p.lr_end}",
        ),
        (
            p.anchor_weight > 0 and p.relaxation != "dirichlet",
            f"anchor_weight is for dirichlet, got relaxation {p.relaxation}",
        ),
        (
            p.beta_decay > 0 and p.relaxation in ("sigmoid", "dirichlet"),
            f"beta_decay is for a softmax of the architecture parameters, got relaxation {p.relaxation}",
        ),
        (p.beta_decay > 0 and frozen, "beta_decay needs architecture parameters that learn: expected alpha_lr above 0"),
        (p.entangled and p.prune, "prune removes operations that entangled ones share: expected entangled false"),
        (p.entangled and binary, "binary compares two paths, which entangled ones share: expected entangled false"),
        (
            p.hypernetwork and p.order != "first",
            f"hypernetwork learns from held-out images: expected order first, got {p.order}",
        ),
        (
            p.hypernetwork and p.latency_weight > 0,
            "hypernetwork weighs latency by every preference: expected latency_weight 0",
        ),
        (
            p.hypernetwork and p.resource_weight > 0,
            "hypernetwork weighs cost by every preference: expected resource_weight 0",
        ),
        (p.hypernetwork and frozen, "hypernetwork needs architecture parameters that learn: expected alpha_lr above 0"),
        (
            p.hypernetwork and (p.early_stop or p.collapse == "stop" or p.selection == "perturbation"),
            "hypernetwork gives many networks, of which an early stop or a perturbation would follow one: expected "
            "early_stop false, collapse warn or regularise, and selection argmax",
        ),
    ]


def first_teacher(p: DartsParams) -> int:
    """The epoch, counted from 1, whose end gives the first teacher."""
    return p.teacher_every * max(1, math.ceil(p.teacher_warmup / p.teacher_every))


def check_relaxation(params: DartsParams, space: RelaxedSpace) -> None:
    """Raises InvalidSpec where the relaxation of a space does not fit the parameters: channels that cannot be divided
    as the spec or its preset says, pruning where no operation is none, anything else where edges carry several
    operations, or no operations to entangle."""
    if params.drop_path > 0 and space.relaxation.none is None:
        raise InvalidSpec(
            f"drop_path leaves out edges of cells: expected a space with an operation that is none, got {space.name}"
        )
    if params.prune and space.relaxation.none is None:
        raise InvalidSpec(
            f"prune removes operations from cells: expected a space with an operation that is none, got {space.name}; "
            "another preset, such as proxyless, searches it"
        )
    if space.relaxation.several and not params.prune:
        raise InvalidSpec(
            f"edges of {space.name} may carry several operations, among which pruning decides alone: expected preset "
            f"gold, or a space whose several is false; got preset {params.preset}"
        )
    preset = PRESETS[params.preset].get("partial", 1)
    partial = int(preset) if params.partial is None else params.partial
    if partial not in (partials := space.partials):
        raise InvalidSpec(
            f"partial: expected one of {', '.join(map(str, partials))}, since the channels of {space.name} with these "
            f"parameters cannot be divided otherwise; got {partial}"
        )
    if params.entangled and not space.relaxation.nested:
        raise InvalidSpec(f"entangled: no operation of {space.name} is part of another one: expected false")

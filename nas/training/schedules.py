"""Schedules of supernet training: which networks are trained when, at which learning rate, and by what they learn.

A schedule is a function that gives the phases of a training; ``nas.training.progressive`` runs them. One step trains
some subnets on one batch, their gradients are *summed*, then the optimiser does one step.

- Progressive shrinking: Cai et al., Once-for-all, ICLR 2020, section 3.3 and appendix B.
- Sandwich rule: Yu and Huang, US-Nets, ICCV 2019; BigNAS (Yu et al., ECCV 2020).
- Delayed start: DepS (Annavajjala et al., 2024).
- Nested networks: SortedNet (Valipour et al., 2023).
- Attentive sampling: AttentiveNAS (Wang et al., CVPR 2021).
- Alpha divergence: AlphaNet (Wang et al., ICML 2021).
- Scale coordination: Scala (Zhang et al., 2024), section 3.3.
- Resolution curriculum: as EfficientTrain (Wang et al., ICCV 2023) has it for single networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

TeacherKind = Literal["none", "frozen", "in_place", "next_larger"]
Preference = Literal["best", "worst"]
CHANNEL_FREE_AXES = {"resolution", "kernel", "depth"}  # axes that leave the number of channels as it is
_ALL = 10**6  # choices: no decision has more


@dataclass(frozen=True)
class Phase:
    """A phase of training. ``elastic``: per axis, how many of the largest choices may be drawn. ``teacher``: of the
    networks of a step; ``in_place``: the largest network of that step, which is trained beside the smallest and
    ``subnets`` - 2 others; ``next_larger``: of the same networks, ordered by MACs, each teaches the next, which learns
    from labels as well.

    ``curve``: the part of one cosine that its learning rates follow. ``ramp_epochs``: in so many first epochs the
    learning rate of all networks but the largest rises from 0. ``ladder``: networks are drawn among those of
    ``samplers.ladder``. ``candidates``: so many networks of about the same MACs are drawn for each that is trained, and
    the one with the least loss on the batch (``prefers`` best) or the largest is. ``alpha_divergence``: students learn
    by it. ``resolutions``: how many of the smallest may be drawn, None: those of ``elastic``.
    """

    name: str
    epochs: int
    lr: float
    subnets: int
    elastic: Mapping[str, int]
    teacher: TeacherKind = "frozen"
    warmup_epochs: float = 0.0
    curve: tuple[float, float] = (0.0, 1.0)
    ramp_epochs: float = 0.0
    ladder: bool = False
    candidates: int = 1
    prefers: Preference = "best"
    alpha_divergence: bool = False
    resolutions: int | None = None

    @property
    def has_ends(self) -> bool:
        """Whether each step trains the largest and the smallest network."""
        return self.teacher in ("in_place", "next_larger")

    @property
    def drawn(self) -> int:
        """How many networks of a step are drawn and then chosen between; the others are drawn as they come."""
        return self.subnets - 2 if self.has_ends else self.subnets


Schedule = Callable[[int, float, set[str]], tuple[Phase, ...]]
"""Phases by epochs, the learning rate, and the axes on which networks of the space differ."""


@dataclass(frozen=True)
class ShrinkingPlan:
    """Of the six phases of progressive shrinking (largest, kernel, depth 1 and 2, width 1 and 2): shares of all epochs,
    and learning rates relative to the first phase's."""

    lengths: tuple[float, float, float, float, float, float]
    rates: tuple[float, float, float, float, float, float]


# Our own, for trainings of tens of epochs: depth and width phases at 1/2 and 3/4 of the kernel phase's rate.
SHORT = ShrinkingPlan((0.40, 0.12, 0.06, 0.12, 0.06, 0.24), (1.0, 0.4, 0.2, 0.3, 0.2, 0.3))

# As published: 180, 120, 25, 120, 25 and 120 epochs; depth and width phases at 1/12 and 1/4 of the kernel phase's rate.
# The relation of that rate to the first phase's is not published; it is that of ``SHORT``.
PUBLISHED = ShrinkingPlan(
    (180 / 590, 120 / 590, 25 / 590, 120 / 590, 25 / 590, 120 / 590), (1.0, 0.4, 0.4 / 12, 0.4 / 4, 0.4 / 12, 0.4 / 4)
)


def progressive_shrinking(epochs: int, lr: float, axes: set[str], plan: ShrinkingPlan = SHORT) -> tuple[Phase, ...]:
    """The phases of Once-for-all, by default with lengths and learning rates of our own (``SHORT``).

    First the largest network alone (over all input resolutions), then kernel, depth in two phases, and last width with
    everything else in two phases. A phase whose axes the space lacks is left out and its epochs go to the last one.
    """
    widths = axes - CHANNEL_FREE_AXES
    everything = dict.fromkeys(axes, _ALL)
    resolution = {"resolution": _ALL}
    kernel = {**resolution, "kernel": _ALL}
    depth_1, depth_2 = {**kernel, "depth": 2}, {**kernel, "depth": _ALL}
    width_1 = {**depth_2, **dict.fromkeys(widths, 2)}
    phases: list[tuple[str, int, dict[str, int], bool]] = [
        ("largest", 1, resolution, True),
        ("kernel", 1, kernel, "kernel" in axes),
        ("depth 1", 2, depth_1, "depth" in axes),
        ("depth 2", 2, depth_2, "depth" in axes),
        ("width 1", 4, width_1, bool(widths)),
        ("width 2", 4, everything, True),
    ]
    used = [i for i, phase in enumerate(phases) if phase[3]]
    lengths = [max(1, round(plan.lengths[i] * epochs)) for i in used]
    lengths[-1] = max(1, lengths[-1] + epochs - sum(lengths))
    out = []
    for i, n in zip(used, lengths, strict=True):
        name, subnets, elastic, _ = phases[i]
        teacher: TeacherKind = "none" if i == 0 else "frozen"
        out.append(Phase(name, n, lr * plan.rates[i], subnets, elastic, teacher, min(2.0, 0.1 * n) if i == 0 else 0.0))
    return tuple(out)


def published_shrinking(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """``progressive_shrinking`` with the published lengths and rates (``PUBLISHED``), for hundreds of epochs."""
    return progressive_shrinking(epochs, lr, axes, PUBLISHED)


def sandwich(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """A single phase by the sandwich rule with in-place distillation."""
    return (Phase("sandwich", epochs, lr, 4, dict.fromkeys(axes, _ALL), "in_place", _warmup(epochs)),)


def delayed(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """DepS: the largest network alone for half of the epochs, then the sandwich rule. The learning rate follows one
    cosine; that of the smaller networks rises within a fiftieth of the epochs, as 5 of 270 are published, and at least
    within half an epoch. Channels are sorted in between."""
    first = max(1, epochs // 2)
    second, start = max(1, epochs - first), first / (first + max(1, epochs - first))
    everything = dict.fromkeys(axes, _ALL)
    return (
        Phase("largest", first, lr, 1, {"resolution": _ALL}, "none", _warmup(first), curve=(0.0, start)),
        Phase("all", second, lr, 4, everything, "in_place", curve=(start, 1.0), ramp_epochs=max(0.5, 0.02 * epochs)),
    )


def nested(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """SortedNet: one network a step, drawn from a ladder of nested ones, learns from labels alone."""
    return (Phase("nested", epochs, lr, 1, dict.fromkeys(axes, _ALL), "none", _warmup(epochs), ladder=True),)


def attentive(epochs: int, lr: float, axes: set[str], prefers: Preference) -> tuple[Phase, ...]:
    """AttentiveNAS: the sandwich rule, whose random networks are the best or the worst of three on the batch
    (BestUp-3 and WorstUp-3 by loss)."""
    everything = dict.fromkeys(axes, _ALL)
    name = f"sandwich of the {prefers}"
    return (Phase(name, epochs, lr, 4, everything, "in_place", _warmup(epochs), candidates=3, prefers=prefers),)


def attentive_best(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """``attentive`` that prefers the best."""
    return attentive(epochs, lr, axes, "best")


def attentive_worst(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """``attentive`` that prefers the worst."""
    return attentive(epochs, lr, axes, "worst")


def alpha(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """AlphaNet: the sandwich rule with the alpha divergence."""
    everything = dict.fromkeys(axes, _ALL)
    return (Phase("alpha", epochs, lr, 4, everything, "in_place", _warmup(epochs), alpha_divergence=True),)


def coordinated(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """Scala: the largest network alone for a tenth of the epochs; then in each step the largest, the smallest and two
    between them, one from each half of the sizes, of which each learns from the next larger and from labels. The
    learning rate follows one cosine."""
    first = max(1, epochs // 10)
    second, start = max(1, epochs - first), first / (first + max(1, epochs - first))
    everything = dict.fromkeys(axes, _ALL)
    return (
        Phase("largest", first, lr, 1, {"resolution": _ALL}, "none", _warmup(first), curve=(0.0, start)),
        Phase("all scales", second, lr, 4, everything, "next_larger", curve=(start, 1.0)),
    )


_CURRICULUM = ((0.6, 1), (0.2, 2), (0.2, _ALL))


def curriculum(epochs: int, lr: float, axes: set[str]) -> tuple[Phase, ...]:
    """The sandwich rule at the smallest resolution for 60 % of the epochs, at the two smallest for 20 %, then at all of
    them: these shares are those of EfficientTrain. The learning rate follows one cosine."""
    everything, phases, before = dict.fromkeys(axes, _ALL), list[Phase](), 0
    lengths = [max(1, round(share * epochs)) for share, _ in _CURRICULUM]
    lengths[0] = max(1, lengths[0] + epochs - sum(lengths))
    for n, (_, resolutions) in zip(lengths, _CURRICULUM, strict=True):
        curve = before / sum(lengths), (before + n) / sum(lengths)
        name, warmup = f"resolutions {len(phases) + 1}", 0.0 if phases else _warmup(n)
        phases.append(Phase(name, n, lr, 4, everything, "in_place", warmup, curve=curve, resolutions=resolutions))
        before += n
    return tuple(phases)


def uniform(epochs: int, lr: float, axes: set[str], subnets: int) -> tuple[Phase, ...]:
    """A single phase in which ``subnets`` networks of the whole space are drawn per step and learn from the labels."""
    return (Phase("uniform", epochs, lr, subnets, dict.fromkeys(axes, _ALL), "none", _warmup(epochs)),)


def _warmup(epochs: int) -> float:
    return min(2.0, 0.1 * epochs)


SCHEDULES: dict[str, Schedule] = {
    "progressive": progressive_shrinking,
    "published": published_shrinking,
    "sandwich": sandwich,
    "delayed": delayed,
    "nested": nested,
    "attentive_best": attentive_best,
    "attentive_worst": attentive_worst,
    "alpha": alpha,
    "curriculum": curriculum,
    "coordinated": coordinated,
}
"""The schedules that ``once_for_all`` offers, by name."""

"""Which network of a search to ship, and why: computed from its front, on both sides of the REST API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from nas.core.errors import InvalidInput, UnknownName
from nas.core.metrics import METRICS
from nas.core.recommendation import DEFAULT_SLACK, Rule, choose
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import CandidateSchema, FrontSchema, ObjectiveSchema


class RecommendationRule(BaseModel):
    """How to choose. ``cost``: the objective that is weighed against the quality, None: latency, or the first cost.
    ``cost_at_most`` and ``quality_at_least`` limit the choice, in the units of the objectives."""

    model_config = {"extra": "forbid", "frozen": True}
    rule: Rule = "within"
    slack: float = DEFAULT_SLACK
    cost: str | None = None
    cost_at_most: float | None = None
    quality_at_least: float | None = None


class RecommendationSchema(BaseModel):
    """The network to ship: None if no member of the front meets the limits. ``reason`` says why it and none other,
    ``evidence`` what was measured of it. ``quality`` and ``cost`` are the metrics by which it was chosen; test data
    choose nothing. ``considered`` members of ``front_size`` could be chosen."""

    search: str
    rule: RecommendationRule
    candidate: CandidateSchema | None
    name: str | None
    quality: str
    cost: str
    reason: str
    evidence: list[str]
    considered: int
    front_size: int


def recommend(front: FrontSchema, rule: RecommendationRule) -> RecommendationSchema:
    """Choose a member of a front: of those that were verified if any was, else of those that were not found too slow.

    Raises UnknownName for a cost that is no objective of the front, InvalidInput for a negative slack.
    """
    quality, cost = deciding_metric(front.quality), _cost(front, rule.cost)
    members = shippable(front)
    eligible = [
        c
        for c in members
        if _within_limits(c.metrics[quality].value, c.metrics[cost.metric].value, front.quality, rule)
    ]
    answer = RecommendationSchema(
        search=front.search,
        rule=rule,
        candidate=None,
        name=None,
        quality=quality,
        cost=cost.metric,
        reason=_nothing(front, members, rule),
        evidence=[],
        considered=len(eligible),
        front_size=len(front.members),
    )
    if rule.slack < 0:
        raise InvalidInput(f"slack: expected at least 0 points, got {rule.slack:g}")
    if not eligible:
        return answer
    sign = 1.0 if front.quality.goal == "max" else -1.0
    merit_N = np.array([sign * c.metrics[quality].value for c in eligible])
    cost_N = np.array([c.metrics[cost.metric].value for c in eligible])
    recommended = eligible[choose(rule.rule, merit_N, cost_N, rule.slack)]
    return answer.model_copy(
        update={
            "candidate": recommended,
            "name": spoken_name(recommended.arch),
            "reason": _reason(front, eligible, recommended, rule, cost),
            "evidence": evidence_of(recommended, front),
        }
    )


def deciding_metric(quality: ObjectiveSchema) -> str:
    """The metric by which networks are chosen: never one on test images."""
    return quality.decided_by or quality.metric


def shippable(front: FrontSchema) -> list[CandidateSchema]:
    """The verified members; where none is verified, those of which a measurement has shown nothing bad: neither more
    than was promised, nor that they do not run whole on the device."""
    quality = deciding_metric(front.quality)
    members = [c for c in front.members if quality in c.metrics]
    verified = [c for c in members if c.status == "verified"]
    return verified or [c for c in members if c.status == "unverified"]


def _cost(front: FrontSchema, name: str | None) -> ObjectiveSchema:
    if name is None:
        return next((o for o in front.costs if o.objective == "latency"), front.costs[0])
    cost = next((o for o in front.costs if o.objective == name), None)
    if cost is None:
        raise UnknownName("cost of the front", name, [o.objective for o in front.costs])
    return cost


def _within_limits(quality: float, cost: float, axis: ObjectiveSchema, rule: RecommendationRule) -> bool:
    if rule.cost_at_most is not None and cost > rule.cost_at_most:
        return False
    if rule.quality_at_least is None:
        return True
    return quality >= rule.quality_at_least if axis.goal == "max" else quality <= rule.quality_at_least


def _nothing(front: FrontSchema, members: Sequence[CandidateSchema], rule: RecommendationRule) -> str:
    if not front.members:
        return "The front is empty: there is no network to recommend."
    if not members:
        return (
            "Every member of the front was measured above what was promised, or does not run whole on the device: "
            "there is none to recommend."
        )
    limits = []
    if rule.cost_at_most is not None:
        limits.append(f"{_cost(front, rule.cost).label.lower()} of at most {rule.cost_at_most:g}")
    if rule.quality_at_least is not None:
        limits.append(f"{METRICS[deciding_metric(front.quality)].label.lower()} of at least {rule.quality_at_least:g}")
    return f"No member of the front has {' and '.join(limits)}."


def _reason(
    front: FrontSchema,
    eligible: Sequence[CandidateSchema],
    recommended: CandidateSchema,
    rule: RecommendationRule,
    cost: ObjectiveSchema,
) -> str:
    """One sentence: the rule, and what the choice costs against the best."""
    quality = deciding_metric(front.quality)
    label = METRICS[quality].label
    label = f"{label[0].lower()}{label[1:]}"
    best = front.quality.best(c.metrics[quality].value for c in eligible)
    gap = abs(best - recommended.metrics[quality].value)
    superlative = "fastest" if cost.objective == "latency" else "cheapest"
    limits = " within the limits" if (rule.cost_at_most, rule.quality_at_least) != (None, None) else ""
    match rule.rule:
        case "within":
            headline = f"The {superlative} within {rule.slack:g} points of the best {label}{limits}"
        case "knee":
            headline = f"The knee: beyond it, more {label} becomes expensive{limits}"
        case "best":
            headline = f"The best {label}{limits}"
        case "fastest":
            headline = f"The {superlative}{limits}"
    behind = f"{gap:.2f} points behind the best" if gap else f"the best of {len(eligible)}"
    return f"{headline}: {recommended.metrics[quality].value:.2f} {front.quality.unit}, {behind}.".replace(" ,", ",")


def evidence_of(candidate: CandidateSchema, front: FrontSchema) -> list[str]:
    """Sentences on what is known of a member: what was measured, against which promise, and what was not."""
    measurement, lines = candidate.measurement, []
    device = front.device or "the device"
    if measurement is None:
        lines.append("No latency was measured: it is calculated from figures or predicted.")
    elif measurement.refused is not None:
        lines.append(f"Its latency could not be measured on {device}: {measurement.refused}.")
    else:
        interval = f"{measurement.low_ms:.4g} to {measurement.high_ms:.4g} ms"
        lines.append(
            f"Measured on {device}: {measurement.median_ms:.4g} ms, 95 % interval {interval}, in {measurement.runs} "
            f"runs; {100 * measurement.undisturbed:.0f} % of the chunks were undisturbed."
        )
    if candidate.promised_ms is not None and measurement is not None and measurement.refused is None:
        outcome = {"verified": "kept, so it is verified", "violated": "broken"}.get(
            candidate.status, "too close to call, so it is not verified"
        )
        lines.append(f"Promised before measuring: at most {candidate.promised_ms:.4g} ms; {outcome}.")
    tested = front.quality.metric
    if front.quality.decided_by is not None and tested in candidate.metrics:
        value = candidate.metrics[tested]
        lines.append(
            f"{METRICS[tested].label}: {value.value:.2f} {value.unit}, on images that had no part in training or in "
            "this choice.".replace("  ", " ")
        )
    if candidate.extrapolated:
        lines.append("Its latency lies outside the domain of the predictor; only the measurement counts.")
    return lines

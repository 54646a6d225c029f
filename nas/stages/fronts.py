"""The fronts of a search, computed from its state and the results of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.core.candidates import CandidateTable
from nas.core.events import SearchState, StageResults
from nas.core.fronts import Front, FrontContext, compute_front
from nas.core.spec import SearchSpec
from nas.stages.results import EstimateResult, FrontStatistics, ProxiesResult, VerifyResult


def front_context(finished: StageResults) -> FrontContext:
    """What results of stages say about fronts. Raises InvalidInput for malformed results."""
    profiled, verified = EstimateResult.read(finished), VerifyResult.read(finished)
    context = FrontContext(
        reference=profiled.reference if profiled is not None else None,
        guiding_metric=guiding_metric(finished),
        verified=verified is not None,
        measured=verified is not None and verified.measured,
    )
    parts = dict.fromkeys((*(profiled.fleet if profiled else ()), *(verified.fleet if verified else ())), context)
    for device, part in parts.items():
        if profiled is not None and device in profiled.fleet:
            part = replace(part, reference=profiled.fleet[device].reference)
        if verified is not None and device in verified.fleet:
            part = replace(part, measured=verified.fleet[device].measured)
        parts[device] = part
    return replace(context, by_device=parts)


def guiding_metric(finished: StageResults) -> str | None:
    """The metric that stands for the quality during the search: a zero-cost score, or None for the quality as it is
    estimated."""
    proxies = ProxiesResult.read(finished)
    return "proxy_score" if proxies is not None and proxies.steers else None


def front_of(
    spec: SearchSpec,
    state: SearchState,
    objectives: Sequence[str] | None = None,
    bound_ms: float | None = None,
    device: str | None = None,
) -> Front:
    """The current front of a search; arguments as for ``compute_front``."""
    table = CandidateTable.of(state.candidates.values())
    return compute_front(spec, table, front_context(state.finished), objectives, bound_ms, device)


def front_summary(front: Front) -> FrontStatistics:
    """Size and hypervolumes of a front."""
    return FrontStatistics(len(front.members), front.hypervolume, front.baseline_hypervolume)


def state_on(state: SearchState, device: str) -> SearchState:
    """The state of a search over a fleet, with metrics and results of one of its devices."""
    candidates = {key: c.on(device) for key, c in state.candidates.items()}
    return replace(state, candidates=candidates, finished=_finished_on(state.finished, device))


def _finished_on(finished: StageResults, device: str) -> StageResults:
    return {stage: {**result, **result.get("fleet", {}).get(device, {})} for stage, result in finished.items()}

"""How long a running job will take, from the pace of its running stage and the prices of those that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.store.json_columns import StageBar

_PRIOR = 0.1  # of all prices: so much work is taken to have gone at the pace that was priced


@dataclass(frozen=True)
class TimeLeft:
    """Estimated ``seconds`` until a job ends, None where nothing is known, without the ``untimed`` stages."""

    seconds: float | None
    untimed: tuple[str, ...]


def time_left(bars: Sequence[StageBar], spent_s: Mapping[str, float], now: float) -> TimeLeft:
    """The rest of the running stage at its own rate, and the prices of the others at the measured pace: by how much the
    stages so far were slower than their prices. ``spent_s``: seconds by finished stage."""
    unfinished = [bar for bar in bars if bar.status != "finished"]
    pace = _pace(bars, spent_s, now)
    known = {bar.name: left_s for bar in unfinished if (left_s := _left_s(bar, pace, now)) is not None}
    untimed = tuple(bar.name for bar in unfinished if bar.name not in known)
    waiting = {bar.name for bar in unfinished if bar.status == "waiting"}
    is_of_whole = bool(waiting & known.keys()) or not untimed
    return TimeLeft(sum(known.values()) if known and is_of_whole else None, untimed)


def stage_time_left_s(bar: StageBar, now: float) -> float | None:
    """Estimated seconds until a running stage is done, at the rate of its present attempt."""
    if bar.anchor is None or bar.latest is None:
        return None
    at, done = bar.anchor
    if bar.done <= done or bar.latest <= at:
        return None
    rate = (bar.done - done) / (bar.latest - at)
    return max(0.0, float((bar.total - bar.done) / rate - (now - bar.latest)))


def _left_s(bar: StageBar, pace: float, now: float) -> float | None:
    """Of a stage that has not finished; None where neither its rate nor its price is known."""
    left_s = stage_time_left_s(bar, now) if bar.status == "running" else None
    if left_s is not None or bar.price_s is None:
        return left_s
    return max(0.0, bar.price_s * pace - _running_s(bar, now))


def _pace(bars: Sequence[StageBar], spent_s: Mapping[str, float], now: float) -> float:
    """Measured over priced seconds; near 1 while little was measured."""
    prior_s = _PRIOR * sum(bar.price_s or 0.0 for bar in bars)
    measured_s = priced_s = prior_s
    for bar in bars:
        took_s = spent_s.get(bar.name) if bar.status == "finished" else _expected_s(bar, now)
        if took_s is not None and bar.price_s is not None:
            measured_s, priced_s = measured_s + took_s, priced_s + bar.price_s
    return measured_s / priced_s if priced_s else 1.0


def _expected_s(bar: StageBar, now: float) -> float | None:
    """What a running stage will have taken at its own rate; None for one without a rate."""
    left_s = stage_time_left_s(bar, now) if bar.status == "running" else None
    return None if left_s is None else _running_s(bar, now) + left_s


def _running_s(bar: StageBar, now: float) -> float:
    """Seconds since a stage was begun in this attempt; 0 for one that waits."""
    return now - bar.begun_at if bar.status == "running" and bar.begun_at is not None else 0.0

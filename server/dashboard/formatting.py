"""Numbers, times and names as text for people. No drawing here."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from nas.core.lifecycle import ENDED
from nas.core.metrics import METRICS
from nas.schemas.candidates import MetricSchema
from nas.schemas.jobs import JobSchema, StageSchema

MISSING = "–"
_UNFINISHED = 0.97  # of a bar, at most, until its stage has finished


def count(value: float) -> str:
    """A count with three significant digits: ``1.23 M``."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{significant(value / size)} {suffix}"
    return f"{value:.0f}"


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, never in exponents."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit: percent with two decimals, durations with three significant digits, counts short."""
    match unit:
        case "%":
            return f"{value:.2f} %"
        case "":
            return count(value)
        case "B":
            return size(round(value))
        case _:
            return f"{significant(value)} {unit}"


def spread(mean: float, deviation: float, unit: str) -> str:
    """A mean with its deviation: ``91.20 ± 0.80 %``."""
    return f"{mean:.2f} ± {deviation:.2f} {unit}".strip()


def metric(metrics: dict[str, MetricSchema], name: str) -> str:
    """A metric of a candidate, or a dash if it has none."""
    value = metrics.get(name)
    return MISSING if value is None else quantity(value.value, value.unit)


def share(value: float | None) -> str:
    """A number from 0 to 1 with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def size(size_bytes: int) -> str:
    """A file's size in decimal units."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value, unit = next((size_bytes / s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size_bytes >= s)
    return f"{significant(value)} {unit}"


def huge(value: float) -> str:
    """A number that may have many digits: ``2.9 × 10¹¹``."""
    if value < 1e6:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def duration(seconds: float) -> str:
    """A duration, to two units at most."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    if rounded < 86_400:
        return f"{rounded // 3600} h {rounded % 3600 // 60} min"
    return f"{rounded // 86_400} d {rounded % 86_400 // 3600} h"


def age(at: datetime, now: datetime) -> str:
    """How long ago, to one unit."""
    seconds = (now - at).total_seconds()
    for size_s, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{int(seconds // size_s)} {word} ago"
    return "just now"


def moment(at: datetime) -> str:
    """A time to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 search``, ``3 searches``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def sentence(fragment: str) -> str:
    """A fragment, such as a reason of the service, as a sentence."""
    fragment = fragment.strip().rstrip(".")
    return f"{fragment[:1].upper()}{fragment[1:]}." if fragment else ""


def label(name: str) -> str:
    """The label of a metric."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ")


def reading(name: str, value: float) -> str:
    """A live reading of a stage, such as a loss or an accuracy in percent."""
    if name in METRICS:
        return quantity(value, METRICS[name].unit)
    return f"{value:.2f} %" if "accuracy" in name else significant(value, 4)


def active_stage(job: JobSchema) -> StageSchema | None:
    """The running stage, or the last finished one."""
    running = [s for s in job.stages if s.status == "running"]
    finished = [s for s in job.stages if s.status == "finished"]
    return next(iter((running or finished)[-1:]), None)


def time_left(job: JobSchema) -> str:
    """How long the job will take, or at least its running stage, and which stages are not counted; empty where not
    known."""
    stage = next((s for s in job.stages if s.status == "running" and s.eta_s is not None), None)
    seconds = job.eta_s if job.eta_s is not None else stage.eta_s if stage is not None else None
    if seconds is None:
        return ""
    what = "" if job.eta_s is not None or stage is None else f"{stage.name}, "
    not_counted = f"; not counted: {', '.join(job.untimed_stages)}" if job.untimed_stages else ""
    return f"{what}estimated: about {duration(seconds)} left{not_counted}"


def fraction(stage: StageSchema) -> float:
    """The share of a stage that is done, 0 to 1; 1 only for a stage that has finished and was not cut off."""
    if not stage.total:
        return float(stage.status == "finished")
    return min(1.0 if stage.status == "finished" else _UNFINISHED, stage.done / stage.total)


def is_over(job: JobSchema) -> bool:
    """Whether the job has ended; only a retry continues it."""
    return job.status in ENDED


def is_moving(job: JobSchema) -> bool:
    """Whether the job may change without an action of its owner."""
    return not is_over(job) and job.status != "paused"


def gain(search: float | None, baseline: float | None) -> str:
    """By how much the search's hypervolume exceeds the random baseline's, in percent."""
    return f"{(search / baseline - 1) * 100:+.1f} %" if search is not None and baseline else ""


def unit_and_kind(name: str) -> tuple[str, str]:
    """Unit and kind of a metric; empty for a name that is not a metric."""
    info = METRICS.get(name)
    return ("", "") if info is None else (info.unit, info.kind)


def tau_interval(interval: tuple[float, float] | None, networks: int) -> str:
    """The 95 % interval of Kendall's tau over so many networks, and whether it shows an order at all."""
    if interval is None:
        return f"n = {networks}, too few for an interval"
    low, high = interval
    conclusion = ", which holds zero: no conclusion" if low <= 0.0 <= high else ""
    return f"95 % interval {low:.2f} to {high:.2f}, n = {networks}{conclusion}"


def figure(value: float | None, spec: str, unit: str = "") -> str:
    """A number by a format such as ``.1f``, with its unit; a dash where there is none."""
    return MISSING if value is None else f"{value:{spec}}{unit}"

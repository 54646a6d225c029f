"""The headline values of a search."""

from __future__ import annotations

from dataclasses import dataclass

from nas.core.measures import MetricKind
from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.elements import div, stat


@dataclass(frozen=True)
class Headline:
    """One value with its name, and the kind of evidence behind it."""

    name: str
    value: str
    kind: MetricKind


@dataclass(frozen=True)
class SearchHeadlines:
    """Headline values of search and random baseline. ``lowest_latency`` is None if latency is no objective."""

    best_quality: Headline
    lowest_latency: Headline | None
    front_size: int
    baseline_front_size: int
    verified: int
    verified_on: str
    evaluations: int
    extrapolated: int
    extrapolated_measured: int
    hypervolume: float | None
    baseline_hypervolume: float | None

    @staticmethod
    def of(search: SearchSchema, front: FrontSchema) -> SearchHeadlines:
        """The summary of a search as its front shows it."""
        quality = front.quality
        latency = next((o for o in front.objectives if o.objective == "latency"), None)
        values = [c.metrics[quality.metric].value for c in front.members]
        best_text = formatting.quantity(quality.best(values), quality.unit) if values else formatting.MISSING
        lowest_latency = None
        if latency is not None and front.members:
            lowest = min(c.metrics[latency.metric].value for c in front.members)
            name = "Lowest latency on the front" if latency.unit == "ms" else "Lowest share of the bounds"
            lowest_latency = Headline(name, formatting.quantity(lowest, latency.unit), latency.kind)
        return SearchHeadlines(
            best_quality=Headline(f"Best {quality.label[0].lower()}{quality.label[1:]}", best_text, quality.kind),
            lowest_latency=lowest_latency,
            front_size=len(front.members),
            baseline_front_size=len(front.baseline),
            verified=sum(c.status == "verified" for c in front.members),
            verified_on=front.device or "every device" if search.fleet else "the device",
            evaluations=search.evaluations,
            extrapolated=search.extrapolated,
            extrapolated_measured=search.extrapolated_measured,
            hypervolume=front.hypervolume,
            baseline_hypervolume=front.baseline_hypervolume,
        )


def draw_summary(summary: SearchHeadlines) -> None:
    """Nothing before the first candidate was evaluated."""
    if not summary.evaluations:
        return
    with div("card"), div("figures"):
        for headline in (summary.best_quality, summary.lowest_latency):
            if headline is not None:
                stat(headline.name, headline.value, headline.kind)
        stat("Candidates on the front", str(summary.front_size), note=f"random search: {summary.baseline_front_size}")
        stat(f"Verified on {summary.verified_on}", str(summary.verified))
        stat("Evaluated candidates", formatting.count(summary.evaluations), "estimated")
        if summary.extrapolated:
            note = f"measured before others: {formatting.count(summary.extrapolated_measured)}"
            stat("Outside the predictor's domain", formatting.count(summary.extrapolated), "predicted", note=note)
        if summary.hypervolume is not None:
            baseline = formatting.share(summary.baseline_hypervolume)
            gain = formatting.gain(summary.hypervolume, summary.baseline_hypervolume)
            note = f"random search: {baseline} ({gain})" if gain else ""
            stat("Hypervolume of the front", formatting.share(summary.hypervolume), note=note)

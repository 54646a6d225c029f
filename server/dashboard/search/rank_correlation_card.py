"""How well the estimates of a search rank architectures, and how a few-shot search partitioned its space."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.rank_correlation import GradientSimilaritySchema, RankCorrelationSchema, SpacePartitionSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.rank_correlation import gradient_similarity_chart, ranking_chart, without_outliers
from server.dashboard.elements import div, heading, kind_chip, stat, text

_METHODS = {
    "gradient_matching": "by gradient matching: choices whose gradients disagree go to different subspaces",
    "auto": "where the choices of a decision harm each other through shared weights",
    "exhaustive": "exhaustively: a subspace for every choice",
    "random": "at random",
    "ensemble": "by a balanced ensemble of supernets, whose router is learned with the weights",
}


class RankCorrelationCard:
    """Hidden until the space is partitioned, or networks are retrained. The decision whose matrix is shown stays
    selected while more results arrive."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._box.set_visibility(False)
        self._correlation: RankCorrelationSchema | None = None
        self._decision = ""

    def show(self, correlation: RankCorrelationSchema | None) -> None:
        """Draw the results so far."""
        if correlation == self._correlation:
            return
        self._correlation = correlation
        self._box.set_visibility(correlation is not None)
        self._box.clear()
        if correlation is not None:
            with self._box:
                self._draw(correlation)

    def _draw(self, correlation: RankCorrelationSchema) -> None:
        with div("card-head"):
            heading("Rank correlation", 2)
            if correlation.networks:
                kind_chip("estimated")
        with div("stack"):
            _draw_taus(correlation)
            if correlation.advice:
                text(correlation.advice)
            with div("cols even"):
                if correlation.networks:
                    with div("stack tight"):
                        label = "Estimated accuracy over accuracy when trained from scratch"
                        labelled_chart(ranking_chart(correlation), "chart ranking", label)
                        text(_caption(correlation), "small muted")
                if correlation.partition is not None:
                    with div("stack tight"):
                        method = _METHODS.get(correlation.method or "", correlation.method or "")
                        text(f"The space in {correlation.subspaces} subspaces, {method}.", "small strong")
                        with div("tree", "ul"):
                            _draw_partition(correlation.partition)
            if correlation.similarities:
                self._draw_similarities(correlation)

    def _draw_similarities(self, correlation: RankCorrelationSchema) -> None:
        by_decision = {s.decision: s for s in sorted(correlation.similarities, key=lambda s: -s.score)}
        if self._decision not in by_decision:
            self._decision = next(iter(by_decision))
        with div("stack tight"):
            with div("flow"):
                text("Similarity of the choices' gradients", "small strong", "span")
                names = {name: f"{name} (score {s.score:.3f})" for name, s in by_decision.items()}
                select = ui.select(names, value=self._decision, label="Decision").props("dense outlined options-dense")
                select.classes("decision")
            box = div("stack tight")

            def show_decision() -> None:
                self._decision = str(select.value)
                box.clear()
                with box:
                    _draw_similarity(by_decision[self._decision])

            select.on_value_change(show_decision)
            show_decision()


def _draw_similarity(similarity: GradientSimilaritySchema) -> None:
    label = f"Cosine of the gradients of the choices of {similarity.decision}"
    labelled_chart(gradient_similarity_chart(similarity), "chart similarity", label)
    groups = " | ".join(", ".join(group) for group in similarity.groups)
    text(
        f"Mean cosine on shared weights. Best two groups: {groups}. The score is how much more choices disagree "
        "between these groups than inside them; the decisions with the highest scores are split first.",
        "small muted",
    )


def _draw_taus(correlation: RankCorrelationSchema) -> None:
    if not correlation.networks:
        return
    after, one_shot, intervals = correlation.tau_after, correlation.tau_one_shot, correlation.intervals
    networks = len(correlation.networks)

    def interval(label: str) -> str:
        return formatting.tau_interval(intervals.get(label), networks)

    if correlation.partition is None:
        with div("figures"):
            stat("Kendall tau", _tau(after), "estimated", interval("after"))
        return
    with div("figures"):
        stat("Kendall tau after the split", _tau(after), "estimated", interval("after"))
        if correlation.one_shot_steps is not None:
            gain = None if after is None or one_shot is None else after - one_shot
            note = f"{correlation.one_shot_steps} more steps, as many as all subspaces; {interval('one_shot')}"
            stat("Undivided, at equal cost", _tau(one_shot), "estimated", note)
            gain_text = formatting.MISSING if gain is None else f"{gain:+.2f}"
            stat("Gain over one supernet", gain_text, note=f"tau, at equal cost; {interval('gain')}")
        stat("Before the split", _tau(correlation.tau_before), "estimated", f"after the warm-up; {interval('before')}")


def _tau(value: float | None) -> str:
    return formatting.MISSING if value is None else f"{value:.2f}"


def _caption(correlation: RankCorrelationSchema) -> str:
    if correlation.partition is None:
        count = formatting.counted(len(correlation.networks), "architecture")
        return f"{count}, each trained alone. Estimates that rank well put them on a rising line."
    count = formatting.counted(len(correlation.networks), "held-out architecture")
    outliers = len(correlation.networks) - len(without_outliers(correlation))
    omitted = f"{formatting.counted(outliers, 'architecture')} that hardly learned"
    omission = f" Not drawn, far to the left: {omitted}." if outliers else ""
    return f"{count}, each trained from scratch. A supernet that ranks well puts them on a rising line.{omission}"


def _draw_partition(node: SpacePartitionSchema) -> None:
    """A group of choices, and how it is partitioned further."""
    with div("", "li"):
        if node.choices:
            separator = ", " if all("," not in choice for choice in node.choices) else " · "
            text(separator.join(node.choices), "choices", "span")
        if node.decision is None and node.subspace is None:
            text("determined by training the subspaces", "leaf", "span")
            return
        if node.decision is None:
            share = "" if node.share is None else f", {100 * node.share:.0f} % of all architectures"
            text(f"subspace {node.subspace}{share}", "leaf", "span")
            return
        text(node.decision, "mono decision-name", "span")
        with div("", "ul"):
            for child in node.children:
                _draw_partition(child)

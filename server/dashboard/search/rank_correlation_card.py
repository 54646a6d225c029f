"""How a few-shot search divided its space, and how far its ranking can be trusted."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.rank_correlation import GradientSimilaritySchema, RankCorrelationSchema, SpacePartitionSchema
from server.dashboard import charts, formatting
from server.dashboard.elements import div, heading, kind_chip, stat, text

_METHODS = {
    "gradient_matching": "by gradient matching: choices whose gradients disagree go to different parts",
    "exhaustive": "exhaustively: a part for every choice",
    "random": "at random",
    "mixture": "by a balanced mixture, which learns with the weights which combination of choices uses which",
}


class TrustCard:
    """Hidden for searches that divide nothing, and until the space is divided. The matrix that is looked at stays the
    same while more is known."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._box.set_visibility(False)
        self._shown: RankCorrelationSchema | None = None
        self._decision = ""

    def show(self, trust: RankCorrelationSchema | None) -> None:
        """Draws what is known so far."""
        if trust == self._shown:
            return
        self._shown = trust
        self._box.set_visibility(trust is not None)
        self._box.clear()
        if trust is not None:
            with self._box:
                self._draw(trust)

    def _draw(self, trust: RankCorrelationSchema) -> None:
        with div("card-head"):
            heading("Can the ranking be trusted?", 2)
            if trust.networks:
                kind_chip("estimated")
        with div("stack"):
            _draw_figures(trust)
            if trust.advice:
                text(trust.advice)
            with div("cols even"):
                if trust.networks:
                    with div("stack tight"):
                        _chart(charts.ranking(trust), "chart ranking", "Estimated accuracy over accuracy trained alone")
                        text(_caption(trust), "small muted")
                with div("stack tight"):
                    text(
                        f"The space in {trust.parts} parts, {_METHODS.get(trust.method, trust.method)}.", "small strong"
                    )
                    with div("tree", "ul"):
                        _draw_node(trust.partition)
            if trust.similarities:
                self._draw_similarities(trust)

    def _draw_similarities(self, trust: RankCorrelationSchema) -> None:
        by_name = {s.decision: s for s in sorted(trust.similarities, key=lambda s: -s.score)}
        if self._decision not in by_name:
            self._decision = next(iter(by_name))
        with div("stack tight"):
            with div("flow"):
                text("Similarity of the choices' gradients", "small strong", "span")
                names = {name: f"{name} (score {s.score:.3f})" for name, s in by_name.items()}
                select = ui.select(names, value=self._decision, label="Decision").props("dense outlined options-dense")
                select.classes("decision")
            box = div("stack tight")

            def draw(similarity: GradientSimilaritySchema) -> None:
                box.clear()
                with box:
                    label = f"Cosine of the gradients of the choices of {similarity.decision}"
                    _chart(charts.similarity(similarity), "chart similarity", label)
                    groups = " | ".join(", ".join(group) for group in similarity.groups)
                    text(
                        f"Mean cosine on shared weights. Best two groups: {groups}. The score tells how much "
                        "more choices disagree between these than inside them; the highest scores are divided first.",
                        "small muted",
                    )

            def choose() -> None:
                self._decision = str(select.value)
                draw(by_name[self._decision])

            select.on_value_change(choose)
            draw(by_name[self._decision])


def _draw_figures(trust: RankCorrelationSchema) -> None:
    if not trust.networks:
        return
    with div("figures"):
        stat("Kendall tau after the split", _tau(trust.tau_after), "estimated")
        if trust.one_shot_steps is not None:
            gain = None
            if trust.tau_after is not None and trust.tau_one_shot is not None:
                gain = trust.tau_after - trust.tau_one_shot
            stat(
                "Undivided, at equal cost",
                _tau(trust.tau_one_shot),
                "estimated",
                f"{trust.one_shot_steps} more steps, as all parts",
            )
            stat("Gain over one-shot", formatting.NONE if gain is None else f"{gain:+.2f}", note="tau, at equal cost")
        stat("Before the split", _tau(trust.tau_before), "estimated", "after the warm-up")


def _tau(value: float | None) -> str:
    return formatting.NONE if value is None else f"{value:.2f}"


def _caption(trust: RankCorrelationSchema) -> str:
    networks = formatting.counted(len(trust.networks), "held-out network")
    beyond = len(trust.networks) - len(charts.typical(trust))
    also = (
        f" Not drawn, far to the left: {formatting.counted(beyond, 'network')} that hardly learned." if beyond else ""
    )
    return f"{networks}, each trained alone from scratch. A supernet that ranks well puts them on a rising line.{also}"


def _draw_node(node: SpacePartitionSchema) -> None:
    """A group of choices, and what becomes of it."""
    with div("", "li"):
        if node.choices:
            text((", " if all("," not in c for c in node.choices) else " · ").join(node.choices), "choices", "span")
        if node.decision is None and node.part is None:
            text("not known before the parts are trained", "leaf", "span")
            return
        if node.decision is None:
            share = "" if node.share is None else f", {100 * node.share:.0f} % of all networks"
            text(f"part {node.part}{share}", "leaf", "span")
            return
        text(node.decision, "mono decision-name", "span")
        with div("", "ul"):
            for child in node.children:
                _draw_node(child)


def _chart(options: charts.Options, classes: str, label: str) -> None:
    ui.echart(options, renderer="svg").classes(classes).props(f'role="img" aria-label="{label}"')

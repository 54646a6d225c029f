"""Which network to ship: the recommendation over the front of a search, with its evidence and how to run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nicegui import background_tasks, ui
from nicegui.events import ValueChangeEventArguments

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.recommendation import DEFAULT_SLACK, Rule
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, FrontSchema
from nas.schemas.marks import MarkSchema
from nas.schemas.recommendations import (
    RecommendationRule,
    RecommendationSchema,
    deciding_metric,
    recommend,
    shippable,
)
from server.dashboard import formatting
from server.dashboard.candidate.class_figures import draw_class_figures, draw_confusion
from server.dashboard.elements import badge, code_block, copy_button, div, heading, metric_stat, notice, text
from server.dashboard.marks import MarkEditor, mark_of
from server.dashboard.search.view_model import candidate_url
from server.dashboard.service_calls import call_service

_RULES: dict[Rule, str] = {
    "within": "Fastest within … of the best",
    "knee": "Knee",
    "best": "Best quality",
    "fastest": "Fastest",
}


class RecommendationCard:
    """Hidden until the front is final. ``marks_changed`` is called when a star or a note was changed here."""

    def __init__(self, client: Client, search_id: str, marks_changed: Callable[[], Awaitable[None]]) -> None:
        self._client, self._search_id, self._marks_changed = client, search_id, marks_changed
        self._front: FrontSchema | None = None
        self._marks: tuple[MarkSchema, ...] = ()
        self._editable = False
        self._rule = RecommendationRule()
        self._details: dict[str, CandidateDetailSchema] = {}
        self._shown: tuple[str | None, str] | None = None
        self._editor: MarkEditor | None = None
        self._box = div("part card accent")
        with self._box:
            heading("Which network should I ship?", 2)
            self._controls = div("flow controls")
            self._result = div("stack")
        self._box.set_visibility(False)

    def show(self, front: FrontSchema, marks: tuple[MarkSchema, ...], *, editable: bool) -> None:
        """Recommend a member of a front."""
        self._marks, self._editable = marks, editable
        if front == self._front:
            if self._editor is not None and self._shown is not None:
                self._editor.show(mark_of(marks, self._shown[0]), editable=editable)
            return
        redraw = self._front is None or _ranges(self._front) != _ranges(front)
        self._front = front
        self._box.set_visibility(front.final and bool(front.members))
        if not front.final or not front.members:
            return
        if redraw:
            self._draw_controls(front)
        background_tasks.create(self._draw(), name="recommendation")

    def _draw_controls(self, front: FrontSchema) -> None:
        self._controls.clear()
        members = shippable(front)
        with self._controls:
            rule = ui.select(_RULES, value=self._rule.rule, label="Rule").props("outlined dense")
            rule.on_value_change(lambda e: self._change(rule=e.value))
            slack = ui.number("Points", value=DEFAULT_SLACK, min=0, step=0.1, format="%g").props("outlined dense")
            slack.classes("narrow").bind_visibility_from(rule, "value", value="within")
            slack.on_value_change(lambda e: self._change(slack=max(0.0, e.value or 0.0)))
            if len(members) > 1:
                cost, quality = front.costs[0], front.quality
                costs = [c.metrics[cost.metric].value for c in members]
                qualities = [c.metrics[deciding_metric(quality)].value for c in members]
                at_most = "at most" if quality.goal == "max" else "at least"
                self._slider(f"{cost.label} {at_most}", cost.unit, costs, max(costs), "cost_at_most")
                least = min(qualities) if quality.goal == "max" else max(qualities)
                label = formatting.label(deciding_metric(quality))
                word = "at least" if quality.goal == "max" else "at most"
                self._slider(f"{label} {word}", quality.unit, qualities, least, "quality_at_least")

    def _slider(self, label: str, unit: str, values: Sequence[float], start: float, field: str) -> None:
        low, high = min(values), max(values)
        step = (high - low) / 100 or 1.0
        # A slider stops at steps between the values: half a step of room keeps a network at its own value.
        room = step / 2 if start == high else -step / 2

        async def move(event: ValueChangeEventArguments[float | None]) -> None:
            value = start if event.value is None else event.value
            free = abs(value - start) < step / 2
            shown.set_text(f"{label}: " + ("no limit" if free else formatting.quantity(value, unit)))
            await self._change(**{field: None if free else value + room})

        with div("limit"):
            shown = text(f"{label}: no limit", "small")
            slider = ui.slider(min=low, max=high, step=step, value=start).props(f'aria-label="{label}"')
            slider.on_value_change(move)

    async def _change(self, **fields: Rule | float | None) -> None:
        self._rule = self._rule.model_copy(update=fields)
        await self._draw()

    async def _draw(self) -> None:
        front, rule = self._front, self._rule
        assert front is not None
        answer = recommend(front, rule)
        detail = await self._detail(answer)
        if (front, rule) != (self._front, self._rule) or self._box.is_deleted:
            return  # another call draws what was asked for meanwhile
        identity = (answer.candidate.arch if answer.candidate is not None else None, answer.reason)
        if identity == self._shown:
            return
        self._shown = identity
        self._result.clear()
        with self._result:
            if answer.candidate is None:
                notice("warn", "No network to recommend", answer.reason)
            else:
                self._draw_network(answer, detail)

    async def _detail(self, answer: RecommendationSchema) -> CandidateDetailSchema | None:
        """Layers and files of the recommended network; None if the service does not answer now."""
        if answer.candidate is None:
            return None
        arch = answer.candidate.arch
        if arch not in self._details:
            try:
                self._details[arch] = await call_service(self._client.candidate, self._search_id, arch)
            except HwnasError as error:
                with self._box:
                    ui.notify(str(error), type="negative")
                return None
        return self._details[arch]

    def _draw_network(self, answer: RecommendationSchema, detail: CandidateDetailSchema | None) -> None:
        candidate, front = answer.candidate, self._front
        assert candidate is not None
        assert front is not None
        with div("flow"):
            ui.link(spoken_name(candidate.arch), candidate_url(self._search_id, candidate.arch, "search")).classes(
                "recommended"
            )
            text(candidate.arch, "mono muted small", "span")
            badge(candidate.status)
            self._editor = MarkEditor(self._client, self._search_id, candidate.arch, self._marks_changed)
            self._editor.show(mark_of(self._marks, candidate.arch), editable=self._editable)
        text(answer.reason)
        with div("figures"):
            names = dict.fromkeys((front.quality.metric, *(o.metric for o in front.costs), "params", "model_bytes"))
            for name in names:
                if name in candidate.metrics:
                    metric_stat(name, candidate.metrics[name])
        with div("cols even"):
            with div("stack tight"):
                heading("Why it is verified" if candidate.status == "verified" else "What is known of it", 3)
                with div("evidence", "ul"):
                    for line in answer.evidence:
                        text(line, tag="li")
            with div("stack tight"):
                heading("Run it", 3)
                if detail is not None and detail.artifacts:
                    _draw_run(detail, detail.artifacts[0], front)
                else:
                    text("It was not exported: export.count of the spec limits how many are.", "muted small")
        if detail is not None and (detail.class_recall or detail.confusion is not None):
            with div("fold", "details"):
                text("By class", tag="summary")
                with div("by-class"):
                    draw_class_figures(candidate, detail.class_recall)
                    draw_confusion(detail.confusion)


def _draw_run(detail: CandidateDetailSchema, artifact: ArtifactSchema, front: FrontSchema) -> None:
    with div("flow"):
        ui.link(f"Download ({formatting.size(artifact.size_bytes)})", artifact.url).props("download").classes("button")
        text(f"or nas pull {front.search} {spoken_name(detail.candidate.arch)}", "mono small muted", "span")
    snippet = run_snippet(detail, artifact.name)
    code_block(snippet)
    copy_button(lambda: snippet)


def run_snippet(detail: CandidateDetailSchema, file_name: str) -> str:
    """Three lines of Python that run the model of a package on images of the shape it takes."""
    channels, height, width = detail.input_shape
    last = ".argmax(1)" if detail.class_recall and "test_accuracy" in detail.candidate.metrics else ""
    return (
        f"import onnxruntime  # after: unzip {file_name}\n"
        'net = onnxruntime.InferenceSession("model.onnx")\n'
        f'net.run(None, {{"image": images}})[0]{last}  # float32 (N, {channels}, {height}, {width}), 0..255'
    )


def _ranges(front: FrontSchema) -> tuple[object, ...]:
    return (front.device, tuple(c.arch for c in front.members), tuple(o.metric for o in front.objectives))

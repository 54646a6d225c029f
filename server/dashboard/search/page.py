"""``/searches/{id}``: one search while it runs and after."""

from __future__ import annotations

import time

from nicegui import ui

from nas.client import Client
from server.dashboard import formatting
from server.dashboard.elements import div, notice
from server.dashboard.job_stages import draw_stages
from server.dashboard.layout import page_layout
from server.dashboard.marks import MarkEditor, mark_of
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.permissions import may_submit
from server.dashboard.polling import Poller
from server.dashboard.search.candidate_table import CandidateTableCard
from server.dashboard.search.data_card import draw_data
from server.dashboard.search.discretization import DiscretizationSummary
from server.dashboard.search.file_cards import draw_downloads, draw_spec
from server.dashboard.search.front_card import FrontCard
from server.dashboard.search.header import SearchHeader
from server.dashboard.search.history_card import draw_children, draw_history
from server.dashboard.search.hypervolume_card import HypervolumeCard
from server.dashboard.search.insight_card import InsightCard
from server.dashboard.search.log_card import LogCard
from server.dashboard.search.rank_correlation_card import RankCorrelationCard
from server.dashboard.search.reader import SearchPageReader
from server.dashboard.search.recommendation_card import RecommendationCard
from server.dashboard.search.refit_card import draw_refits
from server.dashboard.search.relaxation_card import RelaxationCard
from server.dashboard.search.sensitivity_card import draw_sensitivities, sensitivities_of
from server.dashboard.search.status_text import StatusExplanation, explain
from server.dashboard.search.summary_card import SearchHeadlines, draw_summary
from server.dashboard.search.variant_card import VariantCard
from server.dashboard.search.view_model import SearchSnapshot


async def search_page(client: Client, search_id: str) -> None:
    """Status, actions, stages, fronts, candidates, files, history and related searches."""
    reader = SearchPageReader(client, search_id, time.monotonic)
    ui.context.client.on_delete(reader.close)

    async def select_device(device: str | None) -> None:
        reader.select_device(device)
        await poller.refresh()

    async def refresh() -> None:
        reader.invalidate()
        await poller.refresh()

    async def refresh_marks() -> None:
        reader.invalidate_marks()
        await poller.refresh()

    with page_layout(client, "Search", "") as shell:
        header = SearchHeader(client, shell, refresh)
        marks = MarkEditor(client, search_id, None, refresh_marks)
        explanation = MemoizedView(_draw_explanation)
        stages = MemoizedView(draw_stages)
        recommendation = RecommendationCard(client, search_id, refresh_marks)
        summary = MemoizedView(draw_summary)
        warnings = MemoizedView(_draw_warnings)
        with div("cols same") as charts:
            front = FrontCard(search_id, select_device)
            hypervolume = HypervolumeCard()
        rank_correlation = RankCorrelationCard()
        relaxation = RelaxationCard()
        candidates = CandidateTableCard(search_id)
        variants = VariantCard(client, shell, search_id)
        insights = InsightCard(client, search_id)
        with div("cols"):
            with div("stack"):
                data = MemoizedView(draw_data)
                downloads = MemoizedView(draw_downloads)
                spec = MemoizedView(draw_spec)
                children = MemoizedView(draw_children)
                refits = MemoizedView(draw_refits)
                sensitivities = MemoizedView(draw_sensitivities)
            with div("stack"):
                history = MemoizedView(draw_history)
                LogCard(client, search_id)
        charts.set_visibility(False)

        def draw(snapshot: SearchSnapshot) -> None:
            search = snapshot.search
            ui.page_title(f"{search.spec.name} · hwnas")
            header.show(snapshot)
            explanation.show(explain(search))
            stages.show(tuple(search.stages), formatting.time_left(search), search.status)
            editable = may_submit(snapshot.principal)
            marks.show(mark_of(snapshot.marks, None), editable=editable)
            recommendation.show(snapshot.front, snapshot.marks, editable=editable)
            summary.show(SearchHeadlines.of(search, snapshot.front))
            front.show(snapshot.search, snapshot.front, snapshot.candidates)
            rank_correlation.show(search.rank_correlation)
            relaxation.show(snapshot.traces, snapshot.cells, DiscretizationSummary.of(search.stages))
            candidates.show(snapshot.candidates, snapshot.candidate_count, snapshot.marks)
            variants.show(search, snapshot.front, snapshot.artifacts, editable=editable)
            insights.show(snapshot.candidates)
            charts.set_visibility(bool(snapshot.candidates))
            hypervolume.show(search, snapshot.front.device)
            warnings.show(tuple(search.warnings))
            data.show(search.data)
            downloads.show(snapshot.artifacts, search_id)
            spec.show(search.spec)
            children.show(snapshot.children)
            refits.show(snapshot.refits, search.spec.device)
            sensitivities.show(sensitivities_of(search.stages))
            busy_seconds = search.busy_seconds if formatting.is_over(search) else None
            history.show(snapshot.status_changes, search.attempts, busy_seconds)

        poller = Poller(shell, reader.read, draw, lambda snapshot: formatting.is_moving(snapshot.search))
        await poller.start()


def _draw_explanation(explanation: StatusExplanation | None) -> None:
    if explanation is not None:
        notice(explanation.tone, explanation.title, explanation.message)


def _draw_warnings(warnings: tuple[str, ...]) -> None:
    if warnings:
        notice("warn", f"{formatting.counted(len(warnings), 'warning')}; the search continued", list(warnings))

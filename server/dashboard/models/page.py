"""``/models/{name}``: one model with its intake report."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.access import Principal
from nas.core.jobs import JobKind
from nas.core.lifecycle import JobCommand, JobStatus
from nas.core.spoken_names import spoken_name
from nas.models.stored import ParentLatency, ParentQuality
from nas.schemas.user_models import UserModelDetailSchema, UserModelSchema
from server.dashboard import formatting
from server.dashboard.actions import MODELS, Action, ActionBar
from server.dashboard.elements import badge, breadcrumbs, div, heading, notice, stat, text
from server.dashboard.job_stages import draw_stages
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.models.report_card import draw_report
from server.dashboard.polling import Poller


@dataclass(frozen=True)
class ModelSnapshot:
    """A model, and whether the reader may change it."""

    model: UserModelDetailSchema
    may_change: bool


async def model_page(client: Client, name: str) -> None:
    """One model: its source, its intake, and what of it can be made smaller."""

    def fetch() -> ModelSnapshot:
        model, me = client.model(name), client.me()
        reader = Principal(me.owner, frozenset(me.scopes))
        return ModelSnapshot(model, reader.has_scope("submit") and reader.may_change(model.owner))

    with page_layout(client, name, "/models") as shell:
        problem = problem_view("The service refused")

        async def after(action: Action) -> None:
            if action.verb == "delete":
                ui.navigate.to("/models")
            else:
                await poller.refresh()

        actions = ActionBar(client, shell, after, problem.show, MODELS)
        header = MemoizedView(functools.partial(_draw_header, actions))
        refusal = problem_view("The model was refused")
        intake = MemoizedView(_draw_intake)
        figures = MemoizedView(_draw_figures)
        report = MemoizedView(draw_report, "stack")
        users = MemoizedView(_draw_users)

        def draw(snapshot: ModelSnapshot) -> None:
            model = snapshot.model
            header.show(
                model.name,
                model.status,
                _source_text(model),
                model.summary is not None,
                snapshot.may_change,
                model.refused,
            )
            refusal.show(_refusal(model))
            intake.show(model)
            figures.show(model.quality, model.latency)
            report.show(model.report)
            users.show(tuple((user.kind, user.name) for user in model.users))

        poller = Poller(shell, fetch, draw, lambda snapshot: formatting.is_moving(snapshot.model))
        await poller.start()


def _draw_header(
    actions: ActionBar,
    name: str,
    status: JobStatus,
    source: str,
    is_usable: bool,
    may_change: bool,
    refused: bool,
) -> None:
    breadcrumbs(("Models", "/models"), (name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(name)
        badge(status)
        div("grow")
        if is_usable:
            ui.button("Make it faster", icon="add", on_click=lambda: ui.navigate.to(f"/submit?model={name}")).props(
                "outline no-caps"
            )
        if may_change:
            never: tuple[JobCommand, ...] = ("retry",) if refused else ()
            actions.draw({name: status}, without=never)
    text(source, "small muted").style("margin-top: .4rem")


def _refusal(model: UserModelSchema) -> str | None:
    """Why a model was not taken in, and what can be done."""
    if model.error is None or model.status not in ("failed", "quarantined"):
        return None
    error = formatting.sentence(model.error)
    return f"{error} It is not tried again: add another file under this name." if model.refused else error


def _source_text(model: UserModelSchema) -> str:
    source = f"{model.spec.source.label}; owner {model.owner}"
    if (p := model.preprocessing) is None:
        return f"{source}; images are normalised by the statistics of a search's data"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (p.mean, p.std))
    return f"{source}; images enter as (pixel - mean) / std, with mean {mean} and std {std}"


def _draw_figures(quality: ParentQuality | None, latency: ParentLatency | None) -> None:
    """What the model is like as it came; nothing without data and device."""
    if quality is None and latency is None:
        return
    with div("card flow"):
        if quality is not None:
            value = formatting.reading(quality.metric, quality.value)
            note = f"{quality.images} images"
            if quality.interval is not None:
                note += f", 95 % interval {quality.interval[0]:.1f} to {quality.interval[1]:.1f}"
            stat(formatting.label(quality.metric), value, None, note)
        if latency is not None:
            low, high = formatting.quantity(latency.low_ms, "ms"), formatting.quantity(latency.high_ms, "ms")
            note = f"on {latency.device}, 95 % interval {low} to {high}"
            stat("latency", formatting.quantity(latency.median_ms, "ms"), "measured", note)


def _draw_intake(model: UserModelDetailSchema) -> None:
    if model.status == "queued":
        notice(
            "info", "Waiting for a worker", formatting.sentence(model.waiting or "it reads the model once it is free")
        )
    if not formatting.is_over(model):
        draw_stages(tuple(model.stages), formatting.time_left(model), model.status)


def _draw_users(users: tuple[tuple[JobKind, str], ...]) -> None:
    """What keeps a model from being deleted, with links to where that is deleted."""
    if not users:
        return
    with div("card stack"):
        heading("Used by", 2)
        with div("flow"):
            for kind, name in users:
                _draw_user(kind, name)
        text(
            "It can be deleted once these are. A device was measured for the networks of this model: to free the "
            "model, delete the device, or the search, on its page.",
            "small muted",
        )


def _draw_user(kind: JobKind, name: str) -> None:
    match kind:
        case "device":
            ui.link(f"device {name}", f"/devices/{name}")
        case "search":
            ui.link(f"search {spoken_name(name)}", f"/searches/{name}")
        case _:
            text(f"{kind.replace('_', ' ')} {name}, until it has ended", tag="span")

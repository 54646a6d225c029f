"""``/service``: is it ready, who uses it, what runs it; and for administrators tokens, quotas and the audit trail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from nicegui import ui

from nas.client import Client
from nas.core.access import Principal
from nas.core.errors import HwnasError
from nas.schemas.administration import AuditPage, PrincipalSchema, QuotaSchema, TokenSchema
from nas.schemas.service import ReadinessSchema, WorkerSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, progress_bar, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller
from server.dashboard.service.audit_card import AuditCard
from server.dashboard.service.quota_dialog import quota_dialog
from server.dashboard.service.token_card import TokenCard

_GLYPHS = {"ok": "✓", "warning": "!", "failed": "✕"}


@dataclass(frozen=True)
class _Looked:
    """One look at the service. ``ready`` is None where it does not tell, and ``unready`` says why."""

    me: PrincipalSchema
    ready: ReadinessSchema | None
    unready: str
    workers: tuple[WorkerSchema, ...]
    quotas: tuple[QuotaSchema, ...]
    tokens: tuple[TokenSchema, ...] = ()
    audit: AuditPage | None = None

    @property
    def owners(self) -> tuple[str, ...]:
        """Everybody known by name."""
        return tuple(sorted({q.owner for q in self.quotas} | {t.owner for t in self.tokens} | {self.me.owner}))


async def service_page(client: Client) -> None:
    """The service for everybody, and what only administrators see."""

    def fetch() -> _Looked:
        me = client.me()
        ready, unready = _ready(client)
        workers = tuple(client.workers())
        if not _is_admin(me):
            return _Looked(me, ready, unready, workers, (me.quota,))
        return _Looked(me, ready, unready, workers, tuple(client.quotas()), tuple(client.tokens()), trail.fetch(client))

    with page_layout(client, "Service", "/service") as shell:
        heading("Service")
        with div("cols even"):
            readiness = MemoizedView(_draw_ready)
            nodes = MemoizedView(_draw_workers)
        owners = MemoizedView(lambda quotas, me: _draw_owners(quotas, me, edit))
        tokens = TokenCard(client, shell, lambda: live.refresh())
        trail = AuditCard(lambda: live.refresh())
        hint = text("Tokens, quotas and the audit trail are for administrators.", "small muted")
        hint.set_visibility(False)

        def draw(looked: _Looked) -> None:
            admin = _is_admin(looked.me)
            readiness.show(looked.ready, looked.unready)
            nodes.show(looked.workers)
            owners.show(looked.quotas, looked.me)
            if admin and looked.audit is not None:
                tokens.show(looked.tokens, looked.owners)
                trail.show(looked.audit, looked.owners)
            hint.set_visibility(not admin)

        async def edit(quota: QuotaSchema) -> None:
            await quota_dialog(client, shell, quota, live.refresh)

        live = Poller(shell, fetch, draw, lambda looked: any(q.queued + q.running for q in looked.quotas))
        await live.start()


def _is_admin(me: PrincipalSchema) -> bool:
    return Principal(me.owner, frozenset(me.scopes)).is_admin


def _ready(client: Client) -> tuple[ReadinessSchema | None, str]:
    try:
        return client.ready(), ""
    except HwnasError as error:
        return None, str(error)


def _draw_ready(ready: ReadinessSchema | None, unready: str) -> None:
    with div("card stack readiness"):
        with div("flow"):
            heading("Readiness", 2)
            if ready is not None:
                text("✓ ready" if ready.ready else "✕ not ready", f"badge {'verified' if ready.ready else 'failed'}")
        if ready is None:
            text("The service does not tell whether it is ready.", "muted")
            text(unready, "small muted")
            return
        with div("checks"):
            for check in ready.checks:
                text(_GLYPHS[check.status], f"check {check.status}").props(f'aria-label="{check.status}"')
                text(check.name)
                text(check.detail, "small muted")


# Workers


def _draw_workers(workers: tuple[WorkerSchema, ...]) -> None:
    with div("card stack workers"):
        heading("Workers", 2)
        if not workers:
            text("No worker is connected: searches wait in the queue. Start one with: nas serve, or nas dispatch.")
        for worker in workers:
            _draw_worker(worker)


def _draw_worker(worker: WorkerSchema) -> None:
    with div("stack tight"):
        with div("flow"):
            text(worker.name, "strong", "span")
            slots = f"{formatting.counted(worker.slots, 'search', 'searches')} at a time"
            text(slots + (", more nodes can come" if worker.elastic else ""), "small muted", "span")
        known = len(worker.free) == len(worker.nodes)
        for node, free in zip(worker.nodes, worker.free if known else worker.nodes, strict=True):
            with div("node"):
                for name, has, left, unit in (
                    ("CPUs", node.cpus, free.cpus, ""),
                    ("GPUs", node.gpus, free.gpus, ""),
                    ("Memory", node.memory_gb, free.memory_gb, "GB"),
                ):
                    if has:
                        _draw_amount(name, has - left if known else None, has, unit)
            if node.labels:
                text(", ".join(f"{k}: {v}" for k, v in node.labels.items()), "small muted mono")


def _draw_amount(name: str, used: float | None, limit: float | None, unit: str = "") -> None:
    """How much of something is used (None: not known), as a progress_bar where there is a limit."""
    with div("amount"):
        text(name, "small muted")
        if used is None:
            told = _short(limit or 0.0)
        elif limit is None:
            told = f"{_short(used)}, no limit"
        else:
            progress_bar(used / limit if limit else 1.0, "full" if used >= limit else "")
            told = f"{_short(used)} of {_short(limit)}"
        text(f"{told} {unit}".strip(), "small num")


def _short(amount: float) -> str:
    return f"{amount:.0f}" if amount == round(amount) else f"{amount:.1f}"


# Owners


def _draw_owners(
    quotas: tuple[QuotaSchema, ...], me: PrincipalSchema, edit: Callable[[QuotaSchema], Awaitable[None]]
) -> None:
    with div("card stack owners"):
        heading("Use by owner" if _is_admin(me) else "Your use", 2)
        for quota in sorted(quotas, key=lambda q: (-q.running, -q.queued, q.owner)):
            with div("share"):
                with div("flow"):
                    ui.link(quota.owner, f"/?owner={quote(quota.owner)}").classes("strong")
                    if _is_admin(me):
                        _edit_button(quota, edit)
                _draw_amount("Running", quota.running, quota.max_running)
                _draw_amount("Queued", quota.queued, quota.max_queued)
                _draw_amount("GPU hours", quota.gpu_hours_used, quota.gpu_hours)


def _edit_button(quota: QuotaSchema, edit: Callable[[QuotaSchema], Awaitable[None]]) -> None:
    ui.button(icon="edit", on_click=lambda: edit(quota)).props(
        f'flat round dense size=sm aria-label="limits of {quota.owner}"'
    )

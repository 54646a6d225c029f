"""``/service``: readiness, workers and quotas; for administrators also tokens and the audit trail."""

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
from server.dashboard.elements import div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller
from server.dashboard.service.audit_card import AuditCard
from server.dashboard.service.quota_dialog import quota_dialog
from server.dashboard.service.token_card import TokenCard
from server.dashboard.service.usage import draw_usage
from server.dashboard.service.worker_card import draw_workers

_REFRESH_S = 5.0  # each reads six resources
_CHECK_GLYPHS = {"ok": "✓", "warning": "!", "failed": "✕"}


@dataclass(frozen=True)
class ServiceSnapshot:
    """The state of the service. ``readiness`` is None if the service does not report it, for ``unready_reason``.

    ``audit`` is None for readers who are not administrators.
    """

    principal: PrincipalSchema
    readiness: ReadinessSchema | None
    unready_reason: str
    workers: tuple[WorkerSchema, ...]
    quotas: tuple[QuotaSchema, ...]
    tokens: tuple[TokenSchema, ...] = ()
    audit: AuditPage | None = None

    @property
    def owners(self) -> tuple[str, ...]:
        """All owners with a quota or a token."""
        names = {q.owner for q in self.quotas} | {t.owner for t in self.tokens} | {self.principal.owner}
        return tuple(sorted(names))


async def service_page(client: Client) -> None:
    """The service as everybody sees it, and the cards of administrators."""

    def fetch() -> ServiceSnapshot:
        principal = client.me()
        readiness, reason = _readiness(client)
        workers = tuple(client.workers())
        if not _is_admin(principal):
            return ServiceSnapshot(principal, readiness, reason, workers, (principal.quota,))
        quotas, tokens, audit = tuple(client.quotas()), tuple(client.tokens()), audit_card.fetch(client)
        return ServiceSnapshot(principal, readiness, reason, workers, quotas, tokens, audit)

    with page_layout(client, "Service", "/service") as shell:
        heading("Service")
        with div("cols even"):
            readiness_card = MemoizedView(_draw_readiness)
            worker_card = MemoizedView(draw_workers)
        owners_card = MemoizedView(lambda quotas, principal: _draw_owners(quotas, principal, edit_quota))
        token_card = TokenCard(client, shell, lambda: poller.refresh())
        audit_card = AuditCard(lambda: poller.refresh())
        hint = text("Tokens, quotas and the audit trail are for administrators.", "small muted")
        hint.set_visibility(False)

        def draw(snapshot: ServiceSnapshot) -> None:
            readiness_card.show(snapshot.readiness, snapshot.unready_reason)
            worker_card.show(snapshot.workers)
            owners_card.show(snapshot.quotas, snapshot.principal)
            if snapshot.audit is not None:
                token_card.show(snapshot.tokens, snapshot.owners)
                audit_card.show(snapshot.audit, snapshot.owners)
            hint.set_visibility(snapshot.audit is None)

        async def edit_quota(quota: QuotaSchema) -> None:
            await quota_dialog(client, shell, quota, poller.refresh)

        def is_active(snapshot: ServiceSnapshot) -> bool:
            return any(q.queued + q.running for q in snapshot.quotas)

        poller = Poller(shell, fetch, draw, is_active, _REFRESH_S)
        await poller.start()


def _is_admin(principal: PrincipalSchema) -> bool:
    return Principal(principal.owner, frozenset(principal.scopes)).is_admin


def _readiness(client: Client) -> tuple[ReadinessSchema | None, str]:
    try:
        return client.ready(), ""
    except HwnasError as error:
        return None, str(error)


def _draw_readiness(readiness: ReadinessSchema | None, unready_reason: str) -> None:
    with div("card stack readiness"):
        with div("flow"):
            heading("Readiness", 2)
            if readiness is not None:
                status = "verified" if readiness.ready else "failed"
                text("✓ ready" if readiness.ready else "✕ not ready", f"badge {status}")
        if readiness is None:
            text("The service does not report its readiness.", "muted")
            text(unready_reason, "small muted")
            return
        with div("checks"):
            for check in readiness.checks:
                text(_CHECK_GLYPHS[check.status], f"check {check.status}").props(f'aria-label="{check.status}"')
                text(check.name)
                text(check.detail, "small muted")


def _draw_owners(
    quotas: tuple[QuotaSchema, ...], principal: PrincipalSchema, edit: Callable[[QuotaSchema], Awaitable[None]]
) -> None:
    with div("card stack owners"):
        heading("Use by owner" if _is_admin(principal) else "Your use", 2)
        for quota in sorted(quotas, key=lambda q: (-q.running, -q.queued, q.owner)):
            with div("share"):
                with div("flow"):
                    ui.link(quota.owner, f"/?owner={quote(quota.owner)}").classes("strong")
                    if _is_admin(principal):
                        _draw_edit_button(quota, edit)
                draw_usage("Running", quota.running, quota.max_running)
                draw_usage("Queued", quota.queued, quota.max_queued)
                draw_usage("GPU hours", quota.gpu_hours_used, quota.gpu_hours)


def _draw_edit_button(quota: QuotaSchema, edit: Callable[[QuotaSchema], Awaitable[None]]) -> None:
    ui.button(icon="edit", on_click=lambda: edit(quota)).props(
        f'flat round dense size=sm aria-label="limits of {quota.owner}"'
    )

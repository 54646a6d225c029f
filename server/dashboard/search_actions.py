"""Actions on searches and onboardings: buttons that fit the status, and a confirmation of what cannot be undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.lifecycle import ALLOWED_STATUSES, JobCommand, JobStatus
from server.dashboard import formatting
from server.dashboard.dialogs import confirm
from server.dashboard.layout import PageShell
from server.dashboard.service_calls import call_service

Call = Callable[[str], object]


@dataclass(frozen=True)
class SearchAction:
    """A verb of the lifecycle on the screen. One with a ``consequence`` asks for confirmation."""

    verb: JobCommand
    label: str
    icon: str
    past: str
    consequence: str = ""

    def count_allowed(self, statuses: Iterable[JobStatus]) -> int:
        """The number of statuses in which it is allowed."""
        return sum(status in ALLOWED_STATUSES[self.verb] for status in statuses)


@dataclass(frozen=True)
class JobControls:
    """The actions on one kind of job, by its names in the singular and plural, and the ``calls`` that perform them."""

    noun: str
    plural: str
    actions: tuple[SearchAction, ...]
    calls: Callable[[Client], Mapping[JobCommand, Call]]


_MOVES = (
    SearchAction("resume", "Resume", "play_arrow", "resumed"),
    SearchAction("pause", "Pause", "pause", "set to pause"),
    SearchAction("retry", "Retry", "replay", "back in the queue"),
    SearchAction("cancel", "Cancel", "stop", "cancelled", "It stops now. Its results are kept, and it can be retried."),
)
ACTIONS = (
    *_MOVES,
    SearchAction(
        "delete",
        "Delete",
        "delete_outline",
        "deleted",
        "Its candidates, files and history are removed for good. Searches forked from it keep working.",
    ),
)
SEARCHES = JobControls(
    "search",
    "searches",
    ACTIONS,
    lambda client: {
        "pause": client.pause,
        "resume": client.resume,
        "cancel": client.cancel,
        "retry": client.retry,
        "delete": client.delete,
    },
)
ONBOARDINGS = JobControls(
    "onboarding",
    "onboardings",
    (
        *_MOVES,
        SearchAction("delete", "Delete", "delete_outline", "deleted", "What it has measured is removed for good."),
    ),
    lambda client: {
        "pause": client.pause_onboarding,
        "resume": client.resume_onboarding,
        "cancel": client.cancel_onboarding,
        "retry": client.retry_onboarding,
        "delete": client.delete_onboarding,
    },
)


class ActionBar:
    """Buttons for one or many jobs of a kind. ``after`` runs after an action; ``show_problem`` shows the errors."""

    def __init__(
        self,
        client: Client,
        shell: PageShell,
        after: Callable[[SearchAction], Awaitable[None]],
        show_problem: Callable[[str], None],
        controls: JobControls = SEARCHES,
    ) -> None:
        self._client, self._shell = client, shell
        self._after, self._show_problem = after, show_problem
        self._controls = controls
        self._buttons: list[ui.button] = []

    def draw(self, statuses: dict[str, JobStatus]) -> None:
        """Draw the buttons for the jobs of these ids in the current slot."""
        self._buttons = []
        for action in self._controls.actions:
            ids = [i for i, status in statuses.items() if action.count_allowed([status])]
            if ids:
                self._draw_button(action, ids, with_count=len(statuses) > 1)

    def _draw_button(self, action: SearchAction, ids: list[str], with_count: bool) -> None:
        label = f"{action.label} {len(ids)}" if with_count else action.label
        button = ui.button(label, icon=action.icon).props("outline no-caps")
        if action.consequence:
            button.props("color=negative")
        button.on_click(lambda: self._run(action, ids, button))
        self._buttons.append(button)

    async def _run(self, action: SearchAction, ids: list[str], button: ui.button) -> None:
        with self._shell.content:  # the buttons may be drawn again meanwhile
            noun, plural = self._controls.noun, self._controls.plural
            if action.consequence and not await _confirm(action, len(ids), noun, plural):
                return
            buttons = self._buttons
            for b in buttons:
                b.disable()
            button.props("loading")
            problems: list[str] = []
            for i in ids:
                try:
                    await call_service(_perform, self._controls.calls(self._client)[action.verb], i)
                except HwnasError as error:
                    problems.append(str(error))
            button.props(remove="loading")
            for b in buttons:
                b.enable()
            self._show_problem("\n".join(dict.fromkeys(problems)))
            if len(problems) < len(ids):
                ui.notify(f"{formatting.counted(len(ids) - len(problems), noun, plural)} {action.past}")
                await self._after(action)


def _perform(call: Call, job_id: str) -> bool:
    call(job_id)
    return True


async def _confirm(action: SearchAction, count: int, noun: str, plural: str) -> bool:
    subject = f"this {noun}" if count == 1 else f"{count} {plural}"
    return await confirm(
        f"{action.label} {subject}?",
        action.consequence if count == 1 else f"Each of them: {action.consequence[0].lower()}{action.consequence[1:]}",
        f"{action.label} {noun}" if count == 1 else f"{action.label} {count} {plural}",
    )

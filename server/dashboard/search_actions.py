"""What can be done to searches: buttons that fit the status, and a question before what cannot be undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.lifecycle import ALLOWED, JobStatus, Verb
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.service_calls import call_service


@dataclass(frozen=True)
class Action:
    """A verb on screen. One with a ``consequence`` asks first."""

    verb: Verb
    label: str
    icon: str
    done: str
    consequence: str = ""

    def fits(self, statuses: Iterable[JobStatus]) -> int:
        """How many of the statuses it makes sense for."""
        return sum(s in ALLOWED[self.verb] for s in statuses)


ACTIONS = (
    Action("resume", "Resume", "play_arrow", "resumed"),
    Action("pause", "Pause", "pause", "told to pause"),
    Action("retry", "Retry", "replay", "back in the queue"),
    Action("cancel", "Cancel", "stop", "cancelled", "It stops now. What was found so far is kept, and can be retried."),
    Action(
        "delete",
        "Delete",
        "delete_outline",
        "deleted",
        "Its networks, files and history are removed for good. Searches forked from it keep working.",
    ),
)


class ActionBar:
    """Buttons for one or many searches. ``after`` is told what was done, and ``trouble`` what was refused."""

    def __init__(
        self,
        client: Client,
        shell: PageShell,
        after: Callable[[Action], Awaitable[None]],
        trouble: Callable[[str], None],
    ) -> None:
        self._client, self._shell = client, shell
        self._after, self._trouble = after, trouble
        self._buttons: list[ui.button] = []

    def draw(self, statuses: dict[str, JobStatus]) -> None:
        """Buttons for the searches of these ids, where this is called."""
        self._buttons = []
        for action in ACTIONS:
            fitting = [i for i, status in statuses.items() if action.fits([status])]
            if fitting:
                self._button(action, fitting, many=len(statuses) > 1)

    def _button(self, action: Action, ids: list[str], many: bool) -> None:
        label = f"{action.label} {len(ids)}" if many else action.label
        button = ui.button(label, icon=action.icon).props("outline no-caps")
        if action.consequence:
            button.props("color=negative")
        button.on_click(lambda: self._run(action, ids, button))
        self._buttons.append(button)

    async def _run(self, action: Action, ids: list[str], button: ui.button) -> None:
        with self._shell.content:  # the buttons may be drawn anew meanwhile
            if action.consequence and not await _confirmed(action, len(ids)):
                return
            buttons = self._buttons
            for b in buttons:
                b.disable()
            button.props("loading")
            refused: list[str] = []
            for i in ids:
                try:
                    await call_service(_perform, self._client, action.verb, i)
                except HwnasError as error:
                    refused.append(str(error))
            button.props(remove="loading")
            for b in buttons:
                b.enable()
            self._trouble("\n".join(dict.fromkeys(refused)))
            if len(refused) < len(ids):
                ui.notify(f"{formatting.counted(len(ids) - len(refused), 'search', 'searches')} {action.done}")
                await self._after(action)


def _perform(client: Client, verb: Verb, search_id: str) -> bool:
    calls: dict[Verb, Callable[[str], object]] = {
        "pause": client.pause,
        "resume": client.resume,
        "cancel": client.cancel,
        "retry": client.retry,
        "delete": client.delete,
    }
    calls[verb](search_id)
    return True


async def _confirmed(action: Action, count: int) -> bool:
    what = "this search" if count == 1 else f"{count} searches"
    return await confirmed(
        f"{action.label} {what}?",
        action.consequence if count == 1 else f"Each of them: {action.consequence[0].lower()}{action.consequence[1:]}",
        f"{action.label} search" if count == 1 else f"{action.label} {count} searches",
    )


async def confirmed(question: str, consequence: str, go: str) -> bool:
    """Asks before something that cannot be undone; call it in the context of something that stays."""
    with ui.dialog() as dialog, div("card stack"):
        heading(question, 2)
        text(consequence, "muted")
        with div("flow"):
            div("grow")
            ui.button("Keep", on_click=lambda: dialog.submit(False)).props("flat no-caps")
            ui.button(go, on_click=lambda: dialog.submit(True)).props("unelevated no-caps color=negative")
    answer = await dialog
    dialog.delete()
    return bool(answer)

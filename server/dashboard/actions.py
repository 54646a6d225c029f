"""Actions on searches, onboardings, devices, models and data sets: buttons that fit the status, and a confirmation of
what cannot be undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
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
class Action:
    """A verb of the lifecycle on the screen. One with a ``consequence`` asks for confirmation."""

    verb: JobCommand
    label: str
    icon: str
    past: str
    consequence: str = ""

    def count_allowed(self, statuses: Iterable[JobStatus | None]) -> int:
        """The number of statuses in which it is allowed; None is that of what has none."""
        return sum(status is None or status in ALLOWED_STATUSES[self.verb] for status in statuses)


@dataclass(frozen=True)
class Controls:
    """The actions on one kind of things, by its names in the singular and plural, and the ``calls`` that perform them.
    ``named``: whether ids are names that people gave."""

    noun: str
    plural: str
    actions: tuple[Action, ...]
    calls: Callable[[Client], Mapping[JobCommand, Call]]
    named: bool = False


def _delete(consequence: str) -> Action:
    return Action("delete", "Delete", "delete_outline", "deleted", consequence)


_CANCEL = Action("cancel", "Cancel", "stop", "cancelled", "It stops now. Its results are kept, and it can be retried.")
_MOVES = (
    Action("resume", "Resume", "play_arrow", "resumed"),
    Action("pause", "Pause", "pause", "set to pause"),
    Action("retry", "Retry", "replay", "back in the queue"),
    _CANCEL,
)
ACTIONS = (
    *_MOVES,
    _delete("Its candidates, files and history are removed for good. Searches forked from it keep working."),
)
SEARCHES = Controls(
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
ONBOARDINGS = Controls(
    "onboarding",
    "onboardings",
    (*_MOVES, _delete("What it has measured is removed for good.")),
    lambda client: {
        "pause": client.pause_onboarding,
        "resume": client.resume_onboarding,
        "cancel": client.cancel_onboarding,
        "retry": client.retry_onboarding,
        "delete": client.delete_onboarding,
    },
)
DEVICES = Controls(
    "device",
    "devices",
    (_delete("Its onboardings and predictors are removed for good. Searches that have ended remain."),),
    lambda client: {"delete": client.delete_device},
    named=True,
)
MODELS = Controls(
    "model",
    "models",
    (Action("retry", "Retry", "replay", "back in the queue"), _CANCEL, _delete("It is removed for good.")),
    lambda client: {
        "retry": client.retry_intake,
        "cancel": client.cancel_intake,
        "delete": client.delete_model,
    },
    named=True,
)
DATA_SETS = Controls(
    "data set",
    "data sets",
    (_delete("The name is removed, and what was uploaded for it unless a search has read it."),),
    lambda client: {"delete": client.delete_data},
    named=True,
)


def cascade_controls(search_id: str) -> Controls:
    """The actions on the cascades of a search."""
    return Controls(
        "cascade",
        "cascades",
        (_delete("Its file is removed for good; if it is being made, that stops."),),
        lambda client: {"delete": lambda cascade_id: client.delete_cascade(search_id, cascade_id)},
    )


class ActionBar:
    """Buttons for one or many things of a kind. ``after`` runs after an action; ``show_problem`` shows the errors."""

    def __init__(
        self,
        client: Client,
        shell: PageShell,
        after: Callable[[Action], Awaitable[None]],
        show_problem: Callable[[str], None],
        controls: Controls = SEARCHES,
    ) -> None:
        self._client, self._shell = client, shell
        self._after, self._show_problem = after, show_problem
        self._controls = controls
        self._buttons: list[ui.button] = []

    def draw(self, statuses: Mapping[str, JobStatus | None], without: Collection[JobCommand] = ()) -> None:
        """Draw the buttons for the things of these ids in the current slot: those that their status allows, all where
        it is None. ``without``: actions that are not offered."""
        self._buttons = []
        for action in self._controls.actions:
            if action.verb in without:
                continue
            ids = [i for i, status in statuses.items() if action.count_allowed([status])]
            if ids:
                self._draw_button(action, ids, with_count=len(statuses) > 1)

    def _draw_button(self, action: Action, ids: list[str], with_count: bool) -> None:
        label = f"{action.label} {len(ids)}" if with_count else action.label
        button = ui.button(label, icon=action.icon).props("outline no-caps")
        if action.consequence:
            button.props("color=negative")
        button.on_click(lambda: self._run(action, ids, button))
        self._buttons.append(button)

    async def _run(self, action: Action, ids: list[str], button: ui.button) -> None:
        with self._shell.content:  # the buttons may be drawn again meanwhile
            noun, plural = self._controls.noun, self._controls.plural
            if action.consequence and not await self._is_confirmed(action, ids):
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

    async def _is_confirmed(self, action: Action, ids: list[str]) -> bool:
        noun, plural = self._controls.noun, self._controls.plural
        if len(ids) > 1:
            each = f"Each of them: {action.consequence[0].lower()}{action.consequence[1:]}"
            return await confirm(f"{action.label} {len(ids)} {plural}?", each, f"{action.label} {len(ids)} {plural}")
        subject = f"{noun} {ids[0]}" if self._controls.named else f"this {noun}"
        return await confirm(f"{action.label} {subject}?", action.consequence, f"{action.label} {noun}")


def _perform(call: Call, job_id: str) -> bool:
    call(job_id)
    return True

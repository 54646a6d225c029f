"""The ends of dialogs: the buttons of a form, and the confirmation of what cannot be undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from nas.core.errors import HwnasError
from server.dashboard.elements import div, heading, text
from server.dashboard.memoized_view import problem_view


def dialog_buttons(dialog: ui.dialog, label: str, act: Callable[[], Awaitable[None]], problem: str = "") -> None:
    """End a form: ``Close``, and a button ``label`` that acts and closes the dialog, or shows the error of ``act``.

    ``problem``: an error to show from the start.
    """
    view = problem_view("Not accepted")
    view.show(problem)

    async def send() -> None:
        button.props("loading")
        try:
            await act()
            dialog.close()
        except HwnasError as error:
            view.show(str(error))
        finally:
            button.props(remove="loading")

    with div("flow"):
        div("grow")
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
        button = ui.button(label, on_click=send).props("unelevated no-caps")


def priority_dialog(owner: str, priority: int, set_priority: Callable[[int], Awaitable[None]]) -> None:
    """Ask for the priority of a job of ``owner``. Call it in the slot of an element that outlives the dialog."""
    with ui.dialog() as dialog, div("card stack"):
        heading("Priority", 2)
        text(f"Orders the jobs of {owner}: higher goes first. Other owners are not affected.", "muted small")
        number = ui.number("From -100 to 100", value=priority, min=-100, max=100, precision=0)
        number.props("outlined dense")
        dialog_buttons(dialog, "Set priority", lambda: set_priority(int(number.value or 0)))
    dialog.open()


async def confirm(question: str, consequence: str, label: str) -> bool:
    """Ask before something that cannot be undone. Call it in the slot of an element that outlives the dialog."""
    with ui.dialog() as dialog, div("card stack"):
        heading(question, 2)
        text(consequence, "muted")
        with div("flow"):
            div("grow")
            ui.button("Keep", on_click=lambda: dialog.submit(False)).props("flat no-caps")
            ui.button(label, on_click=lambda: dialog.submit(True)).props("unelevated no-caps color=negative")
    answer = await dialog
    dialog.delete()
    return bool(answer)

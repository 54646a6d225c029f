"""What every dialog with a form ends in: a place for problems, and two buttons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from nas.core.errors import HwnasError
from server.dashboard.elements import div
from server.dashboard.memoized_view import problem_view


def ending(dialog: ui.dialog, label: str, act: Callable[[], Awaitable[None]], trouble: str = "") -> None:
    """Ends a form: ``Close``, and a button ``label`` that acts and then closes it, or shows why it could not."""
    problem = problem_view("Not accepted")
    problem.show(trouble)

    async def send() -> None:
        button.props("loading")
        try:
            await act()
            dialog.close()
        except HwnasError as error:
            problem.show(str(error))
        finally:
            button.props(remove="loading")

    with div("flow"):
        div("grow")
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
        button = ui.button(label, on_click=send).props("unelevated no-caps")

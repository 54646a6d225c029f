"""A part of a page that is drawn again only when its values change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

from server.dashboard.elements import div, notice

P = ParamSpec("P")


class MemoizedView(Generic[P]):
    """An element whose content is the result of ``draw``. Equal arguments do not draw again, so nothing flickers."""

    def __init__(self, draw: Callable[P, None], classes: str = "") -> None:
        self.box = div(f"part {classes}")
        self._draw = draw
        self._arguments: tuple[object, object] | None = None

    def show(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Draw with these arguments, unless the last call had equal ones."""
        if self._arguments == (args, kwargs):
            return
        self._arguments = (args, kwargs)
        self.box.clear()
        with self.box:
            self._draw(*args, **kwargs)

    def invalidate(self) -> None:
        """Draw at the next ``show``, whatever its arguments."""
        self._arguments = None


def problem_view(title: str) -> MemoizedView[[str | None]]:
    """An error message under ``title``, nothing while the message is empty or None."""

    def draw(message: str | None) -> None:
        if message:
            notice("bad", title, message)

    return MemoizedView(draw)

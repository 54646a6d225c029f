"""What ``nas serve`` and ``nas dispatch`` do first, and alike."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from pydantic import ValidationError

from nas.core.errors import InvalidInput, StorageError
from server.settings import Settings


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from the environment, over which ``given`` wins. Raises InvalidInput."""
    try:
        settings = Settings(**given)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"settings: {details}") from error
    return settings


def prepare_home(settings: Settings) -> None:
    """Makes the home folder. Raises StorageError."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {settings.home} as home: {error.strerror}") from error


def leave_when_told() -> None:
    """SIGINT and SIGTERM unwind the stack. Once uvicorn has stopped, it raises the signal that stopped it again."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def say(text: str) -> None:
    """A line for whoever started the service."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

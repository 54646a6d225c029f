"""What ``nas serve`` and ``nas dispatch`` share: settings, the home folder, signals and messages."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from pydantic import ValidationError

from nas.core.errors import InvalidInput, StorageError
from server.settings import Settings

SettingOverrides = Mapping[str, Any]  # values of settings by name, before pydantic checks them


def read_settings(overrides: SettingOverrides) -> Settings:
    """Settings from the environment and ``overrides``, which win. Raises InvalidInput."""
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"settings: {details}") from error
    return settings


def prepare_home(settings: Settings) -> None:
    """Create the home folder, which its owner alone can read, or make it so. Raises StorageError."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = settings.home.stat().st_mode
        if mode & 0o077:
            settings.home.chmod(mode & 0o700)
    except OSError as error:
        raise StorageError(f"cannot use {settings.home} as home: {error.strerror}") from error


def share_data_cache(settings: Settings) -> None:
    """Let this process and those that it starts, checks of data and workers among them, prepare data in one folder."""
    os.environ["HWNAS_DATA_CACHE"] = str(settings.data_cache or settings.home / "data-cache")
    if settings.data_cache_gb is not None:
        os.environ["HWNAS_DATA_CACHE_GB"] = f"{settings.data_cache_gb}"


def exit_on_signals() -> None:
    """Make SIGINT and SIGTERM unwind the stack. Uvicorn raises the signal that stopped it again once it has ended."""

    def exit_process(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, exit_process)
    signal.signal(signal.SIGTERM, exit_process)


def say(text: str) -> None:
    """Print a line for the operator on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

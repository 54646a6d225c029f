"""Logs: lines for people or JSON for machines, with the job they belong to, and never with a secret."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

_QUIET = ("httpx", "alembic")  # a line for every request of the dashboard and for every start belongs to debugging
_SECRETS = re.compile(r"(hwnas_[0-9a-f]{12}_)[A-Za-z0-9_-]+|(?<=://)([^:/@\s]+):[^@/\s]+@")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, style: Literal["text", "json"]) -> None:
    """Sends all logs to standard error, from ``level`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else Redacted(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(text: str) -> str:
    """The text without the secrets of tokens and without passwords in URLs."""
    return _SECRETS.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[2]}:***@", text)


class Redacted(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return redact(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: ``at``, ``level``, ``logger``, ``message``; ``job`` in the thread that follows a job, and
    ``error`` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        kind, _, job = (record.threadName or "").partition(" ")
        if kind == "job" and job:
            line["job"] = job
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)

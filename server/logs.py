"""Log formatting: text or JSON lines, with the job of a record as a field, and with secrets removed."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

from nas.core.log_context import current_job

_QUIET = ("httpx", "alembic")  # they log every request and every migration on INFO
_SECRETS = re.compile(r"(hwnas_(?:session_)?[0-9a-f]{12}_)[A-Za-z0-9_-]+|(?<=://)([^:/@\s]+):[^@/\s]+@")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up(level: str, style: Literal["text", "json"]) -> None:
    """Send all log records from ``level`` on to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else RedactingFormatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(text: str) -> str:
    """Remove the secrets of tokens and passwords in URLs."""
    return _SECRETS.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[2]}:***@", text)


class RedactingFormatter(logging.Formatter):
    """Text lines without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``at``, ``level``, ``logger``, ``message``; ``job`` if the record belongs to one (see
    ``nas.core.log_context``), and ``error`` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if (job_id := current_job.get()) is not None:
            line["job"] = job_id
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)

"""Which files a spec may name as its data."""

from __future__ import annotations

from pathlib import Path

from nas.core.errors import InvalidSpec
from nas.core.spec import DataSpec
from nas.datasets.cache import is_url
from server.api.access import requires_tokens
from server.settings import Settings


def check_data_path(data: DataSpec, settings: Settings) -> None:
    """Raises InvalidSpec for a relative path, and for one that the service may not read for a caller.

    The callers of an open service on loopback are users of the machine, who may read the path anyway.
    """
    if data.path is None:
        return
    if is_url(data.path):
        _check_data_url(data.path, settings)
        return
    path = Path(data.path)
    if not requires_tokens(settings):
        if not path.is_absolute() and not data.path.startswith("~"):
            raise InvalidSpec(
                "data.path: expected an absolute path, since a relative one is another on every machine, got "
                f"{data.path!r}"
            )
        return
    inside = path.is_absolute() and "\0" not in data.path  # a relative path is another on every worker
    allowed = (settings.uploads, *settings.data_roots)  # the names of uploads are hashes of their content
    if not inside or not any(path.resolve().is_relative_to(root.resolve()) for root in allowed):
        roots = ", ".join(map(str, settings.data_roots)) or "none: the service has no `data_roots`"
        raise InvalidSpec(f"data.path: expected a path below one of the folders for data ({roots}), got {data.path!r}")


def _check_data_url(url: str, settings: Settings) -> None:
    allowed = any(url.startswith(f"{root.rstrip('/')}/") for root in settings.data_urls) and ".." not in url
    if requires_tokens(settings) and not allowed:
        urls = ", ".join(settings.data_urls) or "none: the service has no `data_urls`"
        raise InvalidSpec(f"data.path: expected a URL below one of those for data ({urls}), got {url!r}")

"""Proxies of the environment and the client."""

from __future__ import annotations

import pytest

from nas.client import Client
from nas.core.errors import InvalidInput

SOCKS = "socks5://127.0.0.1:9"  # which needs a package that is not installed


@pytest.mark.parametrize("url", ["http://127.0.0.1:8765", "http://localhost:8765", "http://[::1]:8765"])
def test_loopback_ignores_proxies(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    with Client(url) as client:
        assert client.url == url


def test_unusable_proxy_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    with pytest.raises(InvalidInput, match="ALL_PROXY"):
        Client("http://hwnas.example")

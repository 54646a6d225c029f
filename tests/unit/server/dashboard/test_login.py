"""The login: where it sends a reader afterwards."""

from __future__ import annotations

import pytest

from server.dashboard.login import _local


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/%2Fevil.example",
        "%2F%2Fevil.example",
        "/%5Cevil.example",
        "/%09/evil.example",
        "/%0d%0aLocation: //evil.example",
        "https://evil.example",
        "https:%2F%2Fevil.example",
        "",
    ],
)
def test_login_leads_to_no_other_service(target: str) -> None:
    assert _local(target) == "/"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/devices", "/devices"),
        ("/devices/a%20board", "/devices/a%20board"),
        ("/devices/a board", "/devices/a%20board"),
        ("/%252Fevil.example", "/%252Fevil.example"),  # one segment, with a slash in its name
    ],
)
def test_login_leads_to_pages_of_this_service(target: str, location: str) -> None:
    assert _local(target) == location

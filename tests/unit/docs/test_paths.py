"""The documentation names only files and folders that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "adr" / "0017-words-and-seams.md",
]
TOPS = "nas|search_spaces|predictors|server|workers|agent|benchmarks|examples|docker|tests|tools|docs"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_named_paths_exist(page: object) -> None:
    text = (ROOT / str(page)).read_text(encoding="utf-8")
    paths = set(re.findall(rf"`((?:{TOPS})/[\w./]*)`", text))
    # the examples of CONTRIBUTING.md name plug-ins that a reader is to write
    assert [path for path in sorted(paths) if "my_" not in path and not (ROOT / path).exists()] == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

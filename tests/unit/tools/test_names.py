"""The count of names: what it counts in written-out sources, and how it holds budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.names import ROOT, Count, NameRules, excesses, main, percentile

RULES = NameRules(
    folders={"product": ["src"]},
    contentless=frozenset({"found", "kept", "told", "rest"}),
    parallel_classes=frozenset({"SpaceParams"}),
    retired={"Follower": "AttemptRunner", "following": "attempt"},
    budgets={"product": {}},
)
EVERY_BINDING = """\
import numpy as found
from os import path as found
found = 1
found: int = 2
found += 3
(found, [other]) = 1, [2]
first, *rest = [1]
for _kept in []: pass
with open("f") as found: pass
def told(found, /, x, *kept, rest=1, **told): return [found for found in x]
class Found: kept: int
lambda found: found
try: pass
except ValueError as found: pass
if (found := 1): pass
self.found = 1
match first:
    case [found, *rest]: pass
    case {"a": 1, **kept}: pass
    case int() as told: pass
"""
READS_ONLY = """\
print(found, kept.found, call(found=1), rest["kept"])
found_names = all_kept = 1
"""


def count_source(source: str, path: str = "src/a.py") -> Count:
    total = Count()
    total.add(path, source, RULES)
    return total


def test_every_kind_of_binding_counts() -> None:
    lines = [place.line for place in count_source(EVERY_BINDING).contentless]
    assert sorted(lines) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 10, 10, 11, 11, 12, 14, 15, 16, 18, 18, 19, 20]


def test_reads_keywords_and_compound_names_do_not_count() -> None:
    assert count_source(READS_ONLY).contentless == []


def test_module_names_count() -> None:
    assert [str(place) for place in count_source("x = 1\n", "src/rest.py").contentless] == ["src/rest.py:1: rest"]
    assert [place.name for place in count_source("x = 1\n", "src/following.py").retired] == ["following"]


def test_rate_ignores_blank_lines() -> None:
    figures = count_source("found = 1\n\n\nx = 2\n").figures(RULES)
    assert figures["contentless_per_1000_lines"] == 500.0


def test_retired_names_are_case_sensitive() -> None:
    total = count_source("class _Follower: pass\nfollower = 1\n")
    assert [place.line for place in total.retired] == [1]


def test_duplicate_classes_and_type_aliases() -> None:
    total = Count()
    total.add("a.py", "class Point: pass\nclass SpaceParams: pass\nKind = int\nclass Once: pass\n", RULES)
    total.add("b.py", "class Point: pass\nclass SpaceParams: pass\nclass Kind: pass\nLIMIT = 1\n", RULES)
    total.add("c.py", "LIMIT = 1\nclass Twice: pass\nclass Twice: pass\n", RULES)
    duplicates = total.duplicate_classes(RULES.parallel_classes)
    assert {name: [place.path for place in places] for name, places in duplicates.items()} == {
        "Kind": ["a.py", "b.py"],
        "Point": ["a.py", "b.py"],
    }


def test_any_mappings() -> None:
    total = count_source(
        "def f(a: dict[str, Any], b: list[Mapping[str, Any]], c: dict[int, Any]) -> typing.Mapping[str, Any]: ...\n"
        "d: dict[str, int] = {}\n"
    )
    assert len(total.any_mappings) == 3


def test_body_length_excludes_signature_and_docstring() -> None:
    total = count_source(
        "def f(\n    a,\n):\n    '''Doc\n    of two lines.'''\n    x = (\n        1\n    )\n\n    return x\n"
        "def g():\n    '''Only this.'''\n"
    )
    assert sorted(total.body_lengths) == [0, 5]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0), ([7], 0.9, 7), ([1, 2, 3, 4], 0.5, 2), ([1, 2, 3, 4, 5], 0.5, 3), (list(range(1, 21)), 0.9, 18)],
)
def test_percentile(values: list[int], share: float, expected: int) -> None:
    assert percentile(values, share) == expected


def test_documented_share_of_public_objects() -> None:
    total = count_source(
        "'''Module.'''\n"
        "class A:\n    '''A.'''\n    def m(self): pass\n    def _p(self): pass\n"
        "def f():\n    '''F.'''\n    def inner(): pass\n"
        "class _B:\n    def n(self): pass\n"
    )
    assert [place.name for place in total.undocumented] == ["A.m"]
    assert total.figures(RULES)["documented_percent"] == 75.0


def test_excesses_name_figure_and_budget() -> None:
    figures = {"any_mappings": 3.0, "documented_percent": 80.0, "retired": 0.0}
    assert excesses(figures, {"any_mappings": 2, "documented_percent": 90, "retired": 0}) == [
        "any_mappings is 3, the budget is 2",
        "documented_percent is 80, the budget is 90",
    ]
    assert excesses(figures, {"any_mappings": 3, "documented_percent": 80}) == []


@pytest.mark.parametrize(("budget", "status"), [(0, 1), (1000, 0)])
def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: int, status: int) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("found = 1\n")
    (tmp_path / "tools" / "names.toml").write_text(
        'contentless = ["found"]\nparallel_classes = []\n[folders]\nproduct = ["src"]\n'
        f"[budgets.product]\ncontentless_per_1000_lines = {budget}\n[retired]\n"
    )
    assert main(["--list", "--folders"], tmp_path) == status
    out = capsys.readouterr().out
    assert "contentless: src/a.py:1: found" in out
    assert ("product: contentless_per_1000_lines is 1000, the budget is 0" in out) is (status == 1)


def test_rules_of_the_repository_are_readable() -> None:
    rules = NameRules.read(ROOT / "tools" / "names.toml")
    assert set(rules.budgets) == set(rules.folders)
    assert all((ROOT / folder).is_dir() for folders in rules.folders.values() for folder in folders)
    assert "found" in rules.contentless

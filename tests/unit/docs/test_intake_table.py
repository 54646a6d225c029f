"""The table of the guide is that of the present models: it has their counts, which the contract tests hold."""

from __future__ import annotations

from tests.support.models import CASES
from tests.support.paths import ROOT
from tools.intake_table import BEGIN, END, FAMILIES, REFUSED


def test_the_guide_has_the_counts_of_all_models() -> None:
    text = (ROOT / "docs" / "own-models.md").read_text()
    lines = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = dict([part.strip() for part in line.strip("| ").split(" | ")[:2]] for line in lines[2:])
    assert set(rows) == set(FAMILIES.values())
    for case in CASES:
        count = f"{case.groups} group{'' if case.groups == 1 else 's'}, of "
        assert rows[FAMILIES[case.name]].startswith(count), case.name
    assert all(rows[FAMILIES[name]].startswith("refused: ") for name, _ in REFUSED)

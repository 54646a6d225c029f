"""Which network of a front a rule recommends, and the names that people can say."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.errors import InvalidInput
from nas.core.recommendation import Rule, choose
from nas.core.spoken_names import WORDS, ids_named, spoken_name

MERIT = np.array([90.0, 98.0, 98.4, 98.8, 99.0])
COST = np.array([0.1, 0.2, 0.4, 0.7, 1.5])


@pytest.mark.parametrize(("rule", "expected"), [("best", 4), ("fastest", 0), ("within", 3), ("knee", 1)])
def test_each_rule_has_its_network(rule: Rule, expected: int) -> None:
    for order in (np.arange(5), np.array([3, 0, 4, 2, 1])):
        position = choose(rule, MERIT[order], COST[order])
        assert order[position] == expected


def test_slack_buys_speed() -> None:
    assert [choose("within", MERIT, COST, slack) for slack in (0.0, 0.2, 0.6, 1.0, 50.0)] == [4, 3, 2, 1, 0]


def test_of_equal_networks_the_better_one_is_taken() -> None:
    merit, cost = np.array([80.0, 90.0, 90.0]), np.array([1.0, 2.0, 1.0])
    assert choose("best", merit, cost) == choose("fastest", merit, cost) == choose("within", merit, cost) == 2


def test_ends_without_a_bend_have_no_knee() -> None:
    assert choose("knee", np.array([90.0, 95.0]), np.array([1.0, 2.0])) == 1
    assert choose("knee", np.array([90.0, 90.0, 90.0]), np.array([1.0, 2.0, 3.0])) == 0


def test_nothing_to_choose_from_and_negative_slack_are_refused() -> None:
    with pytest.raises(InvalidInput, match="got none"):
        choose("best", np.array([]), np.array([]))
    with pytest.raises(InvalidInput, match="slack: expected at least 0"):
        choose("within", MERIT, COST, -0.1)


def test_names_are_stable_different_and_made_of_short_words() -> None:
    assert spoken_name("3f2a8d21c0de") == spoken_name("3f2a8d21c0de")
    assert all(len(set(words)) == 64 and max(map(len, words)) <= 8 for words in WORDS)
    names = {spoken_name(f"{i:012x}") for i in range(500)}
    assert len(names) >= 498
    assert all(len(name.split("-")) == 3 for name in names)


def test_a_text_means_an_id_its_name_or_its_beginning() -> None:
    ids = ["3f2a8d21c0de", "3f2b00000000", "99"]
    assert ids_named("99", ids) == ["99"]
    assert ids_named(spoken_name(ids[1]).upper(), ids) == [ids[1]]
    assert ids_named("3f2", ids) == ids[:2]
    assert ids_named("3f2a", ids) == ids[:1]
    assert ids_named("", ids) == ids_named("zzz", ids) == []

"""What a search comes to: bounds that nothing meets, and networks that only guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas.core.arch import Arch
from nas.core.device import DeviceProfile
from nas.core.events import Candidate, SearchState
from nas.core.ports import Dataset, ImageShape, Problem, Split
from nas.core.spec import ObjectiveSpec, SearchSpec
from nas.stages.conclusions import conclude, guess_level


def problem(labels: list[int], bound: float | None = None) -> Problem:
    split = Split(np.zeros((len(labels), 1, 8, 8), np.uint8), np.array(labels))
    classes = max(labels) + 1
    names = tuple(map(str, range(classes)))
    data = Dataset("d", ImageShape(1, 8, 8, classes), split, split, split, names, "hash")
    spec = SearchSpec(objectives=(ObjectiveSpec(name="accuracy", bound=bound), ObjectiveSpec(name="params")))
    unused: Any = None
    return Problem(spec, unused, data, DeviceProfile("d", "m", "p", 1, "r", "1", "os"), unused)


def state(test_accuracy: float, balanced: float, val_accuracy: float = 80.0) -> SearchState:
    metrics = {
        "val_accuracy": val_accuracy,
        "test_accuracy": test_accuracy,
        "test_balanced_accuracy": balanced,
        "params": 10.0,
        "predicted_ms": 1.0,
        "upper_ms": 1.1,
    }
    candidates = [Candidate(Arch("s", (gene,)), "search", metrics) for gene in range(3)]
    verify: dict[str, Any] = {"verified": 1, "measured": False}
    finished = {"estimate": {"reference": {"accuracy": 0.0, "params": 100.0}}, "verify": verify}
    return SearchState(finished=finished, candidates={c.key: c for c in candidates})


BALANCED = [0, 1, 2, 3] * 50
SKEWED = [0] * 180 + [1] * 20


def test_networks_that_have_learned_need_no_conclusion() -> None:
    assert conclude(problem(BALANCED), state(80.0, 80.0)) == ()
    assert conclude(problem(SKEWED), state(96.0, 85.0)) == ()
    assert conclude(problem(BALANCED), SearchState()) == ()


def test_chance_level_is_said() -> None:
    [conclusion] = conclude(problem(BALANCED), state(26.0, 26.0))
    assert conclusion.code == "chance_level"
    assert "26.0 %" in conclusion.message
    assert "guessing achieves 25.0 %" in conclusion.message


@pytest.mark.parametrize(("accuracy", "balanced"), [(90.0, 50.0), (91.0, 52.0), (97.0, 50.0)])
def test_the_share_of_the_largest_class_is_said(accuracy: float, balanced: float) -> None:
    [conclusion] = conclude(problem(SKEWED), state(accuracy, balanced))
    assert conclusion.code == "majority_level"
    assert "90.0 % of the test images" in conclusion.message


def test_a_bound_that_nothing_meets_names_what_was_reached() -> None:
    [conclusion] = conclude(problem(BALANCED, bound=95.0), state(80.0, 80.0, val_accuracy=71.25))
    assert conclusion.code == "bounds_unmet"
    assert "accuracy of at least 95 %: met by 0 of 3 networks, the best value is 71.25 %" in conclusion.message


def test_guess_level_by_hand() -> None:
    level = guess_level(problem(SKEWED).data.test, 2)
    assert (level.majority, level.chance) == (90.0, 50.0)
    assert level.majority_limit == pytest.approx(90 + 1.645 * 100 * np.sqrt(0.9 * 0.1 / 200))
    assert level.chance_limit == pytest.approx(50 + 1.645 * 50 * np.sqrt(0.25 / 180 + 0.25 / 20))

"""Networks that are hardly going to reach the front are given up on a part of the validation images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.events import Progress, StageFinished, fold_all
from nas.stages import racing, subnets
from nas.stages.fronts import front_of
from nas.stages.racing import IMAGES_METRIC, Race, SurvivesRung, optimistic, race_of
from nas.training import pipeline
from nas.training.criterion import Criterion
from tests.support.engine import SPEC, problem, run

ARCH = Arch("space", (0,))


def test_optimism_shrinks_with_the_images() -> None:
    assert optimistic(50.0, 1024) == pytest.approx(50.0 + 100 * 2.58 * 0.5 / 32)
    assert optimistic(50.0, 4096) == pytest.approx(50.0 + 100 * 2.58 * 0.5 / 64)
    assert optimistic(100.0, 1024) == 100.0
    assert optimistic(0.0, 1024) > 0.0


@pytest.mark.parametrize(
    ("accuracy", "cost_ms", "reaches_the_end"),
    [
        (50.0, 2.0, False),  # hopes for 54.03 %, where 60 % take 1 ms
        (57.0, 2.0, True),  # hopes for 60.99 %
        (50.0, 0.5, True),  # nothing is as fast
        (10.0, 0.5, True),
    ],
)
def test_networks_that_something_better_and_cheaper_beats_are_given_up(
    accuracy: float, cost_ms: float, reaches_the_end: bool
) -> None:
    def score(_: Arch, survives_rung: SurvivesRung) -> dict[str, float]:
        return {"survives": float(survives_rung(accuracy, 1024))}

    race = Race(score, np.array([[-60.0, 1.0], [-90.0, 50.0]]), 0)
    assert race.run(ARCH, np.array([np.nan, cost_ms])) == {"survives": float(reaches_the_end)}


def test_scoring_ends_when_a_part_is_enough() -> None:
    class Identity(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    data: Any = SimpleNamespace(task="single_label", shape=SimpleNamespace(classes=2), class_weights=None)
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    batches = [(right.repeat(100, 1), torch.zeros(100, dtype=torch.long))] * 2
    batches += [(wrong.repeat(100, 1), torch.zeros(100, dtype=torch.long))] * 3
    asked: list[tuple[float, int]] = []

    def survives_rung(quality: float, images: int) -> bool:
        asked.append((quality, images))
        return images < 400

    scores = Criterion(data, "cpu").score(Identity(), batches, survives_rung, first_part=150)
    assert asked == [(100.0, 200), (50.0, 400)]
    assert scores.quality == 50.0
    assert Criterion(data, "cpu").score(Identity(), batches).quality == 40.0


def test_no_race_where_networks_are_scored_at_once() -> None:
    p = problem()
    state = fold_all([])
    assert len(p.data.val) <= racing.FIRST_PART
    assert race_of(p, state, "search", Any, dict) is None  # type: ignore[arg-type]


@pytest.mark.slow
def test_exploration_saves_scoring_and_keeps_its_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(pipeline, "_PIXELS_AT_ONCE", 1)  # 120 images in batches of 30
    for module in (racing, subnets):
        monkeypatch.setattr(module, "FIRST_PART", 40)
    monkeypatch.setattr(racing, "STANDARD_ERRORS", 0.5)

    def explored(folder: Path) -> list[Any]:
        events = []
        for event in run(folder, problem()):
            events.append(event)
            if isinstance(event, StageFinished) and event.stage == "explore":
                break
        return events

    events = explored(tmp_path / "one")
    state = fold_all(events)
    candidates = list(state.candidates.values())
    given_up = [c for c in candidates if IMAGES_METRIC in c.metrics]
    assert given_up
    assert {c.metrics[IMAGES_METRIC] for c in given_up} == {60.0}
    share = state.finished["explore"]["scored_share"]
    assert share == pytest.approx(1 - len(given_up) / 2 / len(candidates))
    assert not any(IMAGES_METRIC in c.metrics for c in front_of(SPEC, state).members)
    [told] = [e.message for e in events if isinstance(e, Progress) and "given up early" in e.message]
    assert told.startswith(f"{100 * (1 - share):.0f} % of the scoring was saved")
    assert fold_all(explored(tmp_path / "two")).candidates == state.candidates

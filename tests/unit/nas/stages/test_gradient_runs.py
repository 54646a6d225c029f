"""Runs of gradient search in checkpoints: earlier versions wrote them as plain JSON, and read them so."""

from __future__ import annotations

import json

from nas.stages.gradient_runs import GradientRun, dump_run, dump_runs, load_run, load_runs

RECORD = {
    "seed": 3,
    "genes": [0, 4, 1],
    "series": [[0, 0, 1], [0, 4, 1]],
    "scores": [[0.25, 0.75], [1.0, 0.0]],
    "val_accuracy": 81.5,
    "signs": ["skips"],
    "steps": 40,
}
RUN = GradientRun(3, (0, 4, 1), ((0, 0, 1), (0, 4, 1)), ((0.25, 0.75), (1.0, 0.0)), 81.5, ("skips",), 40)


def test_runs_are_read_as_earlier_versions_wrote_them_and_written_alike() -> None:
    assert load_run(json.dumps(RECORD)) == RUN
    assert dump_run(RUN) == json.dumps(RECORD)
    of_seed, of_subspace = {**RECORD, "supernet": "ab" * 32}, {**RECORD, "subspace": 0}
    text = json.dumps([of_seed, of_subspace])
    runs = load_runs(text)
    assert [(run.supernet, run.subspace) for run in runs] == [("ab" * 32, None), (None, 0)]
    assert dump_runs(runs) == text


def test_runs_inside_subspaces_are_read_from_checkpoints_that_call_them_parts() -> None:
    assert load_run(json.dumps({**RECORD, "part": 2})).subspace == 2

"""Damaged checkpoints are got past: the newest whole one counts, and it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas.blobs import FolderBlobs
from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Event, StageFinished, StageStarted, Warned, fold_all
from workers.checkpoints import without_damaged_checkpoints

Damage = Callable[[Path], object]


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2])


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path)


def checkpoints(blobs: FolderBlobs, stage: str = "train", steps: int = 4) -> list[Checkpoint]:
    return [Checkpoint(stage, step, blobs.put(f"{stage} {step}".encode())) for step in range(1, steps + 1)]


def path_of(blobs: FolderBlobs, checkpoint: Checkpoint) -> Path:
    return blobs.root / checkpoint.blob[:2] / checkpoint.blob


def test_whole_checkpoints_change_nothing(blobs: FolderBlobs) -> None:
    log: list[Event] = [StageStarted("train", 0, 2), *checkpoints(blobs)]
    undamaged = without_damaged_checkpoints(log, blobs)
    assert (list(undamaged.events), undamaged.warnings) == (log, ())


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("damaged", [1, 2, 4])
def test_the_newest_whole_checkpoint_counts_and_it_is_said(blobs: FolderBlobs, damage: Damage, damaged: int) -> None:
    written = checkpoints(blobs)
    for checkpoint in written[len(written) - damaged :]:
        damage(path_of(blobs, checkpoint))
    others = checkpoints(blobs, "explore", 2)
    undamaged = without_damaged_checkpoints([StageStarted("train", 0, 2), *written, *others], blobs)
    state = fold_all(undamaged.events)
    assert state.checkpoints.get("train") == (written[3 - damaged] if damaged < 4 else None)
    assert state.checkpoints["explore"] == others[-1]
    then = f"goes on from the one at step {4 - damaged}" if damaged < 4 else "begins anew"
    text = f"the checkpoint at step 4 of stage train is damaged; the stage {then}"
    assert undamaged.warnings == (Warned("train", text),)


def test_a_stage_that_finished_with_a_damaged_checkpoint_runs_again(blobs: FolderBlobs) -> None:
    written, part = checkpoints(blobs), checkpoints(blobs, "retrain.a", 2)
    flip(path_of(blobs, written[-1]))
    flip(path_of(blobs, part[-1]))
    finished = [StageFinished(stage, 1.0, {}) for stage in ("estimate", "train", "retrain")]
    state = fold_all(without_damaged_checkpoints([*written, *part, *finished], blobs).events)
    assert list(state.finished) == ["estimate"]
    assert (state.checkpoints["train"], state.checkpoints["retrain.a"]) == (written[2], part[0])


def test_a_store_that_does_not_answer_is_no_damage(blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    written = checkpoints(blobs)

    def fail(_path: Path) -> bytes:
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StorageError, match="Connection refused"):
        without_damaged_checkpoints(written, blobs)

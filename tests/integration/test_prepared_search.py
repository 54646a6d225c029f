"""Whole searches over prepared data: pixels on disk give what pixels in memory give, and encoded images a front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.core import registry
from nas.core.events import Event, Exported, Measured, fold_all
from nas.core.ports import Problem
from nas.core.spec import DataSpec
from nas.datasets.prepared import prepare as preparing
from nas.datasets.storage import Preparation, load_data
from tests.support.engine import PROFILE, SPEC, RulePredictor, run
from tests.support.image_files import encoded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """Images of 20x16 pixels, bright above or below."""
    root = tmp_path_factory.mktemp("photographs")
    for at in range(240):
        pixels = np.random.default_rng(at).integers(0, 100, (16, 20, 3), dtype=np.uint8)
        pixels[8 * (at % 2) : 8 * (at % 2) + 8] += 100
        folder = root / ("above", "below")[at % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{at:03}.png").write_bytes(encoded(Image.fromarray(pixels)))
    return DataSpec(name="folder", path=str(root), params={"image_size": 8, "flip": False})


def search(data: DataSpec, storage: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    monkeypatch.setattr(preparing, "SHARD_BYTES", 4096)
    asked = data.model_copy(update={"params": {**data.params, "storage": storage}})
    spec = SPEC.model_copy(update={"data": asked})
    dataset = load_data(asked, Preparation(folder / "cache", threads=2))
    problem = Problem(spec, registry.build_space(spec.space, dataset.shape), dataset, PROFILE, RulePredictor())
    return list(run(folder / "blobs", problem))


def test_pixels_on_disk_give_the_front_of_pixels_in_memory(
    photographs: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_memory, from_disk = (
        [
            event
            for event in search(photographs, storage, tmp_path / storage, monkeypatch)
            if isinstance(event, Measured)
        ]
        for storage in ("memory", "decoded")
    )
    assert from_memory
    assert from_memory == from_disk


def test_encoded_images_are_searched_tested_and_exported(
    photographs: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = search(photographs, "encoded", tmp_path, monkeypatch)
    state = fold_all(events)
    assert state.data is not None
    assert state.data.inputs == 240
    assert [event for event in events if isinstance(event, Exported) and event.name.endswith(".zip")]
    tested = [c.metrics["test_accuracy"] for c in state.candidates.values() if c.origin == "search" and c.measurement]
    assert max(tested) > 80.0  # of two classes

"""The benchmark of loading, on a few images."""

from __future__ import annotations

import pytest
from PIL import Image

from benchmarks import data_loading
from tests.support.image_files import encoded, random_images


@pytest.mark.long
@pytest.mark.slow
def test_a_source_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_loading, "SPEED_S", 0.2)
    images = [encoded(Image.fromarray(image), "jpeg") for image in random_images(400, 24)]
    labels = [at % 2 for at in range(400)]
    params = {"storage": "encoded", "image_size": 16}
    figures = data_loading.measure_source(data_loading.write_tar, images, labels, params, 200)
    assert figures["images_per_s"] > 100
    assert 0.8 < figures["growth"] < 1.25
    assert sum(map(len, images[:200])) < figures["prepared_bytes"] < 2 * sum(map(len, images[:200]))
    assert figures["second_start_s"] > 0
    assert figures["cores_ratio"] > 0

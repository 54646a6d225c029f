"""The benchmark of own models: its parts run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import own_model
from benchmarks._cli import Options


def test_counting_on_imagenet_prepares_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("sign_digits.npz", "imagenet_sample.npz"):
        (tmp_path / "data" / name).touch()
    monkeypatch.setattr(own_model, "imagenet", lambda archive, folder: {"images": 3})
    monkeypatch.setattr(own_model, "take_in", lambda *_: pytest.fail("expected no intake and no onboarding"))
    result = own_model.bench(Options(tmp_path, (0,), True, {"threads": 1, "parts": ["imagenet"]}))
    assert result["imagenet"] == {"images": 3}
    assert result["presets"] == {}
    assert set(result["seconds"]) == {"imagenet", "all"}

"""What a quick demo has to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def check_result(result: dict[str, Any]) -> None:
    """The figures of a quick demo are there, and make sense."""
    expected = {"search_id", "front", "hypervolume", "baseline", "export", "predictor", "noise", "wall_s"}
    assert set(result) == expected
    fields = {"arch", "test_accuracy", "predicted_ms", "upper_ms", "measured_ms", "low_ms", "high_ms", "status"}
    fields |= {"params", "macs"}
    assert result["front"]
    assert result["baseline"]["front"]
    for member in [*result["front"], *result["baseline"]["front"]]:
        assert set(member) == fields
        assert member["status"] in ("verified", "violated", "unverified")  # the last where it is too close to call
        assert 0 < member["predicted_ms"] <= member["upper_ms"]
        assert 0 < member["low_ms"] <= member["measured_ms"] <= member["high_ms"] < 100
    assert "verified" in {member["status"] for member in result["front"]}
    assert 0 < result["hypervolume"] < 1
    assert result["export"]["accuracy_onnx"] == pytest.approx(result["export"]["accuracy_torch"], abs=0.1)
    assert result["export"]["max_abs_err"] < 1e-3
    assert Path(result["export"]["path"]).is_file()
    assert result["predictor"]["spearman"] > 0.9
    assert set(result["noise"]) == {"floor", "levels", "refused"}
    assert 0 <= result["noise"]["floor"] < 100
    assert min(result["noise"]["levels"]) > 0
    assert result["noise"]["refused"] == 0
    assert {"serve", "device", "train", "explore", "verify", "export", "total"} <= set(result["wall_s"])

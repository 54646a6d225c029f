"""The steps that benchmarks compare: the same losses on both sides, and what needs a GPU runs on a CPU at tiny size."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.supernet_step import SUBNETS, retraining_steps, supernet_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", SUBNETS)
def test_the_published_step_learns_as_ours(name: str) -> None:
    steps = supernet_steps(16, 8, name, "float32", small=True)
    for _ in range(2):
        assert steps.plain() == pytest.approx(steps.product(), rel=1e-3)


def test_retraining_is_compared_by_macs() -> None:
    steps, relative_macs = retraining_steps(32, 4, "float32", small=True)
    assert relative_macs > 1
    assert steps.plain() > 0
    assert steps.product() > 0


@pytest.mark.long
def test_what_needs_a_gpu_runs_on_a_cpu() -> None:
    figures = gpu.measure("cpu", gpu.TINY, "none", compiled=False)
    assert figures["left_out"] == []
    assert set(figures["ratio"]) == {"float32", "bfloat16"}
    assert figures["supernet"]["plain"]["images_per_s"] > 0
    assert figures["darts_step"]["speedup"] > 0
    assert figures["nas_bench_201"]["epoch_of_cifar10_s"] > 0


def test_without_a_gpu_the_benchmark_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a GPU: expected a CUDA device, found none"):
        gpu.bench(None)  # type: ignore[arg-type]

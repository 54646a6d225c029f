"""CPU counts under affinity and control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nas.cpus import available_cpus


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_affinity_limits_the_machine(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "cpus"), [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8)]
)
def test_quota_of_version_2(tmp_path: Path, quota: str, cpus: int) -> None:
    assert available_cpus(write(tmp_path, {"sys/fs/cgroup/cpu.max": quota + "\n"})) == cpus


def test_the_smallest_quota_of_nested_groups_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/service/job\n",
        "sys/fs/cgroup/service/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/service/cpu.max": "300000 100000\n",
    }
    assert available_cpus(write(tmp_path, files)) == 3


@pytest.mark.parametrize(("quota", "cpus"), [("400000", 4), ("-1", 8)])
def test_quota_of_version_1(tmp_path: Path, quota: str, cpus: int) -> None:
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": f"{quota}\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert available_cpus(write(tmp_path, files)) == cpus

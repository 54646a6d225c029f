"""How many CPUs this process may use, which a container or ``taskset`` limits below those of the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs of the process's affinity, limited by the CPU quotas of its control groups, rounded up; at least 1.

    ``root`` is the folder of ``proc`` and ``sys``.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """CPU quotas of version 2 of control groups, from the process's own group up, and of version 1."""
    mount = root / "sys/fs/cgroup"
    quotas = []
    group = mount / _own_group(root)
    for folder in [group, *group.parents]:
        if not folder.is_relative_to(mount):
            break
        quotas.append(_read(folder / "cpu.max").split())
    quotas.append([*_read(mount / "cpu/cpu.cfs_quota_us").split(), *_read(mount / "cpu/cpu.cfs_period_us").split()])
    return [int(pair[0]) / int(pair[1]) for pair in quotas if len(pair) == 2 and pair[0].isdigit()]


def _own_group(root: Path) -> str:
    lines = _read(root / "proc/self/cgroup").splitlines()
    return next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""  # no control groups of this version

"""The most memory that this process, or its GPU, has held since a moment."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def forget_peak(torch_device: str) -> None:
    """Counts from now on. Where the system does not allow that, the peak is that of the whole process."""
    if torch_device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(torch_device)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # the resident set's high-water mark; see proc(5)


def peak_bytes(torch_device: str) -> int:
    """Of a GPU what torch has held there, else the resident set of this process, libraries and data included."""
    if torch_device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(torch_device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Peak memory of this process, or of its GPU, since a reset."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory(torch_device: str) -> None:
    """Start counting. Where the operating system does not allow it, the peak is that of the process's whole life."""
    if torch_device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(torch_device)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # resets the high-water mark of the resident set; see proc(5)


def peak_memory_bytes(torch_device: str) -> int:
    """The most that torch held on a GPU, or the largest resident set of this process, libraries and data included."""
    if torch_device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(torch_device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

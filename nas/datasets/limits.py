"""How large an input may become when it is unpacked, judged by its headers before anything is read."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from nas.core.errors import DataTooLarge, InvalidData

MAX_PIXELS = 89_000_000  # of one image, before it is scaled; Pillow warns above 89,478,485
MAX_EXPANSION = 500  # times its packed size; images and labels of real data sets stay below 100
SMALL_BYTES = 16 * 2**20  # whatever is smaller than this when unpacked does no harm
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_pixels(width: int, height: int) -> None:
    """Raises InvalidData for an image that is too large to decode."""
    if width * height > MAX_PIXELS:
        raise InvalidData(f"expected at most {MAX_PIXELS:,} pixels, got {width}x{height}")


def check_expansion(where: str, unpacked_bytes: int, packed_bytes: int) -> None:
    """Raises InvalidData for content that is far larger than the file that holds it."""
    if unpacked_bytes > SMALL_BYTES and unpacked_bytes > MAX_EXPANSION * max(1, packed_bytes):
        raise InvalidData(
            f"{where}: expected at most {MAX_EXPANSION} times its packed size, got {packed_bytes:,} bytes that unpack "
            f"to {unpacked_bytes:,}"
        )


def check_memory(where: str, needed_bytes: int) -> None:
    """Raises DataTooLarge for arrays that do not fit into the memory that this process may use."""
    limit_bytes = memory_limit_bytes()
    if needed_bytes > limit_bytes:
        raise DataTooLarge(
            f"{where}: its images take {needed_bytes / 1e9:.1f} GB of memory, and {limit_bytes / 1e9:.1f} GB can be "
            "used here; scale them down by image_size, or keep fewer"
        )


def memory_limit_bytes() -> int:
    """The least of the machine's memory, the control group's limit and the process's own limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    if _CGROUP_LIMIT.exists() and (text := _CGROUP_LIMIT.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)

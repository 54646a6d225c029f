"""Check data sets of specs in processes of their own: the server opens no file that a caller names."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import BoundedSemaphore

from pydantic import ValidationError

from nas.core import registry
from nas.core.errors import InvalidData
from nas.core.ports import ImageShape
from nas.core.spec import DataSpec
from nas.datasets.cache import files_below, is_url
from nas.datasets.check import REPORT, REQUEST, CheckRequest, DataReport

CHECK_SECONDS = 20.0
CHECK_BYTES = 2 * 2**30
MAX_ENTRIES = 50_000  # files of a data set whose times are looked at before each check
_PARALLEL = BoundedSemaphore(2)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class _CheckKey:
    """A data set with its files as they are now."""

    data_json: str
    fingerprint: str
    headers_only: bool


def shape_of(data: DataSpec) -> ImageShape:
    """The shape of a data set by its headers alone. Raises the error that it is refused with."""
    return report_of(data, headers_only=True).require_shape()


def report_with_samples(data: DataSpec) -> DataReport:
    """As ``report_of``, with images of each class; read anew."""
    return _run_check(CheckRequest(data, CHECK_BYTES, samples=True))


def report_of(data: DataSpec, headers_only: bool = False) -> DataReport:
    """What is known of a data set; checked again when a file of it has changed.

    A data set without files of a caller is not read: only its shape is asked for. Raises UnknownName, and what the data
    set raises where nothing lies at the path.
    """
    dataset_type = registry.load_dataset(data.name)
    if data.path is not None and is_url(data.path):
        return _checked(_CheckKey(data.model_dump_json(), f"a URL, in minute {time.time() // 60:.0f}", headers_only))
    try:
        path = None if data.path is None else Path(data.path).expanduser()
        fingerprint = _fingerprint(path) if path is not None and path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, no permission, no such home, a NUL
        raise InvalidData(f"the data at {data.path!r} cannot be read: {error}") from error
    if fingerprint is None:
        return DataReport(dataset_type.describe(data), incomplete="part of the installation, and not read here")
    return _checked(_CheckKey(data.model_dump_json(), fingerprint, headers_only))


@lru_cache(maxsize=256)
def _checked(key: _CheckKey) -> DataReport:
    return _run_check(CheckRequest(DataSpec.model_validate_json(key.data_json), CHECK_BYTES, key.headers_only))


def _run_check(request: CheckRequest) -> DataReport:
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
    command = [sys.executable, "-P", "-m", "nas.datasets.check"]  # -P: no modules of the current folder
    with _PARALLEL:
        try:
            done = subprocess.run(
                command,
                input=REQUEST.dump_json(request),
                env=environment,
                capture_output=True,
                timeout=CHECK_SECONDS,
                check=False,
            )
            output, reason = done.stdout, f"its check ended with status {done.returncode}"
        except subprocess.TimeoutExpired as late:
            output, reason = late.stdout or b"", f"reading it takes more than {CHECK_SECONDS:g} s"
    return _last_report(output, reason)


def _last_report(output: bytes, reason: str) -> DataReport:
    """The last complete line; ``reason`` says why there is no more."""
    for line in reversed(output.splitlines()):
        try:
            report = REPORT.validate_json(line)
        except ValidationError:  # the line that was being written
            continue
        unfinished = report.account is None and not report.problems and not report.incomplete
        return DataReport(report.shape, incomplete=reason) if unfinished else report
    return DataReport(problems=(f"the data cannot be read: {reason}",))


def _fingerprint(path: Path) -> str:
    """Changes when a file below the path does, by names, sizes and times; the same for a path without anything.

    A folder with too many files for a look at each, such as a home folder by mistake, counts as changed every minute.
    """
    digest = hashlib.sha256()
    entries = [path] if path.is_file() else list(map(Path, islice(files_below(path), MAX_ENTRIES + 1)))
    if len(entries) > MAX_ENTRIES:
        return f"more than {MAX_ENTRIES} files, in minute {time.time() // 60:.0f}"
    for entry in sorted(entries):
        status = entry.stat() if entry.exists() else entry.lstat()
        digest.update(f"{entry}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()

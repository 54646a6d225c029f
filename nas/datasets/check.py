"""The check of a data set: its shape, its account, and all of its problems.

``python -m nas.datasets.check`` makes the check in a process with a memory limit of its own, so that a server reads
nobody's files itself: a ``CheckRequest`` as JSON comes on standard input, and lines of ``DataReport`` go to standard
output, the last of which is the best that is known when the process is stopped.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Base64Bytes, TypeAdapter

from nas.core import registry
from nas.core.data_account import DataAccount
from nas.core.errors import DataTooLarge, HwnasError, InvalidData, InvalidInput, error_of
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape
from nas.core.spec import DataSpec
from nas.datasets.cache import cache_folder, copy_in_use
from nas.datasets.prepared.loading import prepared_dataset
from nas.datasets.samples import samples_of
from nas.datasets.storage import find_prepared


@dataclass(frozen=True)
class DataReport:
    """What is known of a data set. ``account`` is None where it was not read in full: for its ``problems``, of the
    error ``code``, or because of ``incomplete``, a limit of time or memory. ``samples_png``: images of each class,
    where they were asked for (``nas.datasets.samples``)."""

    shape: ImageShape | None = None
    account: DataAccount | None = None
    problems: tuple[str, ...] = ()
    code: str = InvalidData.code
    incomplete: str = ""
    samples_png: Base64Bytes = b""

    def require_shape(self) -> ImageShape:
        """Raises the error that the data set was refused with, if its shape is not known."""
        if self.shape is None:
            raise self.error
        return self.shape

    def require_usable(self) -> None:
        """Raises the error that the data set was refused with, if any."""
        if self.problems:
            raise self.error

    @property
    def content_hash(self) -> str | None:
        """The content hash; None where the data were not read in full."""
        return self.account.content_hash if self.account is not None else None

    @property
    def error(self) -> HwnasError:
        """All problems as one error."""
        return error_of(self.code, *(self.problems or (self.incomplete,)))


@dataclass(frozen=True)
class CheckRequest:
    """A data set to check within ``memory_bytes``; with ``headers_only``, only its shape is asked for. ``samples``:
    whether images of each class are."""

    data: DataSpec
    memory_bytes: int
    headers_only: bool = False
    samples: bool = False


_KINDS = {".parquet": "parquet", ".arrow": "parquet", ".tar": "webdataset"}
REQUEST = TypeAdapter(CheckRequest)
REPORT = TypeAdapter(DataReport)


def check_data(data: DataSpec, headers_only: bool = False, samples: bool = False) -> Iterator[DataReport]:
    """What is known after looking at the headers, and then, unless these are enough, after reading everything. Reading
    goes on where the headers have a problem, so that the others are reported as well. A data set that was prepared on
    this machine is not read again."""
    shape = None
    try:
        dataset_type = registry.load_dataset(data.name)
        refusal: InvalidData | None = None
        try:
            shape = dataset_type.describe(data)
            yield DataReport(shape, incomplete="only its headers were read" if headers_only else "")
        except InvalidData as error:
            refusal = error
            yield DataReport(problems=error.problems, code=error.code)
        if headers_only:
            return
        dataset = _read(data, dataset_type)
        if refusal is not None:
            raise refusal
        if dataset is None:
            yield DataReport(shape, incomplete="its images stay encoded: the first search prepares and checks them")
            return
        account = replace(dataset.account, content_hash=dataset.content_hash)
        yield DataReport(shape, account, samples_png=samples_of(dataset) if samples else b"")
    except DataTooLarge as error:
        yield DataReport(shape, incomplete=str(error))
    except MemoryError:
        yield DataReport(shape, incomplete="reading it takes more memory than may be used here")
    except InvalidData as error:
        yield DataReport(shape, problems=error.problems, code=error.code)
    except InvalidInput as error:
        yield DataReport(shape, problems=(str(error),), code=error.code)
    except OSError as error:
        problem = f"the data at {data.path!r} cannot be read: {error.strerror or error}"
        yield DataReport(shape, problems=(problem,))


def _read(data: DataSpec, dataset_type: DatasetType) -> Dataset | None:
    """The data set as it was prepared, or read into memory; None for one that is never read into memory."""
    prepared = find_prepared(data, dataset_type, cache_folder())
    if prepared is not None:
        return prepared_dataset(prepared.path, prepared.manifest, data, prepared.params, data.seed)
    with copy_in_use(data.path):
        return None if data.params.get("storage") == "encoded" else dataset_type.load(data, data.seed)


def usual_name(path: Path) -> str:
    """The kind of data set, by the names of files. Raises InvalidData where they do not show it."""
    if path.is_dir():
        kinds = (kind for suffix, kind in _KINDS.items() if next(path.rglob(f"*{suffix}"), None) is not None)
        return next(kinds, "folder")
    if path.suffix.lower() in _KINDS:
        return _KINDS[path.suffix.lower()]
    if path.suffix.lower() == ".npz":
        return "npz"
    raise InvalidData(
        f"{path}: expected a folder or a file .npz, {', '.join(_KINDS)}, or the name of the kind of data set"
    )


def main() -> None:
    """Check the request on standard input."""
    request = REQUEST.validate_json(sys.stdin.buffer.read())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, hard))
    for report in check_data(request.data, request.headers_only, request.samples):
        sys.stdout.buffer.write(REPORT.dump_json(report) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

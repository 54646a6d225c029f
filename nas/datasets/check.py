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

from pydantic import TypeAdapter

from nas.core import registry
from nas.core.data_account import DataAccount
from nas.core.errors import DataTooLarge, HwnasError, InvalidData, InvalidInput, error_of
from nas.core.ports import ImageShape
from nas.core.spec import DataSpec


@dataclass(frozen=True)
class DataReport:
    """What is known of a data set. ``account`` is None where it was not read in full: for its ``problems``, of the
    error ``code``, or because of ``incomplete``, a limit of time or memory."""

    shape: ImageShape | None = None
    account: DataAccount | None = None
    problems: tuple[str, ...] = ()
    code: str = InvalidData.code
    incomplete: str = ""

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
    """A data set to check within ``memory_bytes``; with ``headers_only``, only its shape is asked for."""

    data: DataSpec
    memory_bytes: int
    headers_only: bool = False


REQUEST = TypeAdapter(CheckRequest)
REPORT = TypeAdapter(DataReport)


def check_data(data: DataSpec, headers_only: bool = False) -> Iterator[DataReport]:
    """What is known after looking at the headers, and then, unless these are enough, after reading everything. Reading
    goes on where the headers have a problem, so that the others are reported as well."""
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
        dataset = dataset_type.load(data, data.seed)
        if refusal is not None:
            raise refusal
        yield DataReport(shape, replace(dataset.account, content_hash=dataset.content_hash))
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


def usual_name(path: Path) -> str:
    """The kind of data set, by the names of files. Raises InvalidData where they do not show it."""
    if path.is_dir():
        return "parquet" if next(path.rglob("*.parquet"), None) is not None else "folder"
    if (name := path.suffix.lower().removeprefix(".")) in ("npz", "parquet"):
        return name
    raise InvalidData(f"{path}: expected a folder or a file .npz or .parquet, or the name of the kind of data set")


def main() -> None:
    """Check the request on standard input."""
    request = REQUEST.validate_json(sys.stdin.buffer.read())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, hard))
    for report in check_data(request.data, request.headers_only):
        sys.stdout.buffer.write(REPORT.dump_json(report) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""Reading an uploaded table in a process with limits on memory and time, so that no upload can harm the server.

A Parquet file of some kilobytes can hold gigabytes, which its headers do not show.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from nas.core.errors import InvalidData
from predictors.onboarding.tables import KINDS, MAX_CELLS, Kind, RawTable, read_table

MEMORY_BYTES = 2**30
SECONDS = 60.0
MAX_DUMP_BYTES = 32 * MAX_CELLS  # of the table that was read; a float takes 18 at most
_REFUSED = 3  # exit status of a child whose message on standard error is meant for the user


def read_isolated(data: bytes, kind: Kind) -> RawTable:
    """``read_table`` in a child process. Raises InvalidData for what is no table, and for one that takes too much
    memory or time."""
    command = [sys.executable, "-P", "-m", "predictors.onboarding.table_child", kind]  # -P: no modules of the folder
    try:
        ended = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        raise InvalidData(f"expected a table that can be read within {SECONDS:g} s") from late
    if ended.returncode == _REFUSED:
        raise InvalidData(ended.stderr.decode())
    if ended.returncode != 0:
        raise InvalidData(f"the table cannot be read: its reader ended with status {ended.returncode}")
    return RawTable.load(ended.stdout)


def main() -> int:
    """The child: a table on standard input becomes one on standard output. Returns its exit status."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, hard))
    kind = next(kind for kind in KINDS if kind == sys.argv[1])
    try:
        dump = read_table(sys.stdin.buffer.read(), kind).dump()
    except InvalidData as error:
        return _refuse(str(error))
    except MemoryError:
        return _refuse(f"expected a table that can be read within {MEMORY_BYTES:,} bytes of memory")
    if len(dump) > MAX_DUMP_BYTES:
        return _refuse(f"expected a table of at most {MAX_DUMP_BYTES:,} bytes once it is unpacked, got {len(dump):,}")
    sys.stdout.buffer.write(dump)
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.buffer.write(reason.encode(errors="backslashreplace"))
    return _REFUSED


if __name__ == "__main__":
    sys.exit(main())

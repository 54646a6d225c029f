"""Inside a Ray worker: stream the events of a job, and dump the stacks of a worker that hangs."""

from __future__ import annotations

import faulthandler
import logging
import pkgutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.core.errors import HwnasError, StorageError
from nas.core.events import EncodedEvent, Progress
from nas.core.jobs import JobPayload
from workers.attempt import AttemptOutcome, EventBatch
from workers.processes import is_alive, own_process_name, send_signal

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.05  # progress within this time after earlier progress is held back in the worker
_STACKS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class WorkerHandshake:
    """First message of a job: the process that runs it, and the file to which it writes its stacks on SIGUSR1."""

    process: str
    stacks_path: str


def stream_job(
    run_job: str, payload: JobPayload, blobs_url: str, events: Sequence[EncodedEvent]
) -> Iterator[WorkerHandshake | EventBatch | AttemptOutcome]:
    """Yield the handshake, then the events of a job. ``run_job`` names the function to import and call.

    An HwnasError is yielded as text, since an exception may not survive pickling.
    """
    with tempfile.NamedTemporaryFile(prefix="nas-stacks-") as stacks:
        # faulthandler runs in C on a signal, so it works while a long call holds the interpreter lock.
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        try:
            yield WorkerHandshake(own_process_name(), stacks.name)
            yield from throttle_progress(pkgutil.resolve_name(run_job)(payload, blobs_url, events), time.monotonic)
        except StorageError as error:
            yield AttemptOutcome("unstored", str(error))
        except HwnasError as error:
            yield AttemptOutcome("failed", str(error))
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def throttle_progress(batches: Iterable[EventBatch], clock: Callable[[], float]) -> Iterator[EventBatch]:
    """Yield the batches; hold back progress that comes within ``PROGRESS_INTERVAL_S`` of the last progress until the
    next batch, and drop it if newer progress of its stage arrives. All other events are yielded at once."""
    last = clock() - PROGRESS_INTERVAL_S
    held_back: dict[str, EncodedEvent] = {}
    for batch in batches:
        only_progress = all(event["kind"] == Progress.kind for event in batch)
        now = clock()
        if only_progress and now - last < PROGRESS_INTERVAL_S:
            held_back.update((event["stage"], event) for event in batch)
            continue
        yield [*held_back.values(), *batch]
        held_back = {}
        last = now if only_progress else last
    if held_back:
        yield list(held_back.values())


def dump_stacks(worker: WorkerHandshake) -> str:
    """Return the stacks of all threads of a worker on this host, and the state of its process."""
    if not is_alive(worker.process):
        return f"the worker {worker.process} has ended"
    path = Path(worker.stacks_path)
    before = path.stat().st_size
    send_signal(worker.process, signal.SIGUSR1)
    until = time.monotonic() + _STACKS_TIMEOUT_S
    stacks = ""
    while time.monotonic() < until:
        time.sleep(0.1)
        text = path.read_bytes()[before:].decode(errors="replace")
        if text and text == stacks:
            break
        stacks = text
    return f"the worker {worker.process} is {_state(worker.process)}\n{stacks or 'it did not write its stacks'}"


def kill_worker(worker: WorkerHandshake) -> None:
    """Kill a worker on this host that ignores Ray."""
    send_signal(worker.process, signal.SIGKILL)


def is_local(worker: WorkerHandshake) -> bool:
    """Whether a worker runs on this host."""
    return worker.process.partition(":")[0] == socket.gethostname()


def _state(process: str) -> str:
    status = Path(f"/proc/{process.split(':')[1]}/status")
    if not status.exists():
        return "running"
    lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
    return lines["State"].strip()

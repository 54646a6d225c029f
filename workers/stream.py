"""What runs inside a Ray worker: a job's generator, and a look at one that hangs."""

from __future__ import annotations

import faulthandler
import logging
import pkgutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.core.errors import HwnasError
from nas.core.events import Progress
from nas.core.ports import JobKind
from workers.following import Ended, Records
from workers.processes import is_here, owner_name, send

log = logging.getLogger(__name__)

THIN_S = 0.05  # progress that comes faster is left out before it leaves the worker
_LOOK_S = 2.0


@dataclass(frozen=True)
class Hello:
    """The first thing that a job says: which process runs it, and the file that its stacks go into on SIGUSR1."""

    name: str
    stacks: str


def stream_job(
    run_job: str, kind: JobKind, spec: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[Hello | Records | Ended]:
    """Yields first who runs it, then the events of a job. ``run_job`` names the function, which is imported here.

    An error of ours travels as text: what it was made from may not survive the journey.
    """
    with tempfile.NamedTemporaryFile(prefix="nas-stacks-") as stacks:
        # In C and on a signal, so that it works while a call that never ends holds the interpreter's lock.
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
        try:
            yield Hello(owner_name(), stacks.name)
            yield from thin(pkgutil.resolve_name(run_job)(kind, spec, blobs_url, events), time.monotonic)
        except HwnasError as error:
            yield Ended("failed", str(error))
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def thin(batches: Iterable[Records], clock: Callable[[], float]) -> Iterator[Records]:
    """The batches, but progress that comes within ``THIN_S`` of the last progress waits for what comes next, and is
    dropped if that is newer progress of its stage. All other events go at once."""
    last = clock() - THIN_S
    held: dict[str, dict[str, Any]] = {}
    for batch in batches:
        calm = all(event["kind"] == Progress.kind for event in batch)
        now = clock()
        if calm and now - last < THIN_S:
            held.update((event["stage"], event) for event in batch)
            continue
        yield [*held.values(), *batch]
        held = {}
        last = now if calm else last
    if held:
        yield list(held.values())


def dump(worker: Hello) -> str:
    """The stacks of all threads of a worker on this host, and what the system says about the process."""
    if not is_here(worker.name):
        return f"the worker {worker.name} runs no more"
    stacks = Path(worker.stacks)
    before = stacks.stat().st_size
    send(worker.name, signal.SIGUSR1)
    until = time.monotonic() + _LOOK_S
    text = ""
    while time.monotonic() < until:
        time.sleep(0.1)
        found = stacks.read_bytes()[before:].decode(errors="replace")
        if found and found == text:
            break
        text = found
    return f"the worker {worker.name} is {_state(worker.name)}\n{text or 'it does not answer with its stacks'}"


def end(worker: Hello) -> None:
    """Kills a worker on this host that does not listen to Ray."""
    send(worker.name, signal.SIGKILL)


def runs_here(worker: Hello) -> bool:
    """Whether a worker's host is this one."""
    return worker.name.partition(":")[0] == socket.gethostname()


def _state(name: str) -> str:
    status = Path(f"/proc/{name.split(':')[1]}/status")
    if not status.exists():
        return "running"
    lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
    return lines["State"].strip()

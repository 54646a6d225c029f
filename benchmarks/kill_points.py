"""Places in a running service where a process can be killed: used by ``benchmarks.kill_matrix``, never by the service.

The environment names one point. The first process that comes by says so in a file and waits there until it is told to
go on, or is killed. Two things are replaced by doubles whose answers depend on their input alone, so that two runs can
be compared bit by bit: the measurement of a network, and the profile of the machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

POINT, FOLDER = "HWNAS_KILL_POINT", "HWNAS_KILL_FOLDER"
Hook = Callable[[Any], None]


def install() -> None:
    """Arms the point named in the environment in this process."""
    sys.meta_path.insert(0, _Finder())


def reach(point: str) -> None:
    """Waits here if ``point`` is the one that is asked for and nobody has been here before."""
    if os.environ[POINT] != point:
        return
    folder = Path(os.environ[FOLDER])
    try:
        with (folder / "reached").open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    while not (folder / "go").exists():
        time.sleep(0.02)


class _Finder(MetaPathFinder):
    """Runs a hook on a module right after it was imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        hook = HOOKS.get(name)
        spec = PathFinder.find_spec(name, path) if hook is not None else None
        if spec is None or spec.loader is None or hook is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            hook(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _store(module: Any) -> None:
    """In the transaction that queues a search, in the one that ends it, and after the latter."""
    from sqlalchemy import event, inspect
    from sqlalchemy.orm import Session

    from server.store.models import Job

    def flushed(session: Session, _context: object) -> None:
        if any(isinstance(row, Job) and row.kind == "search" for row in session.new):
            reach("enqueue")
        for row in session.dirty:
            if not isinstance(row, Job) or row.kind != "search" or row.status != "succeeded":
                continue
            if inspect(row).attrs.status.history.has_changes():
                session.info["ended"] = True
                reach("before result")

    def committed(session: Session) -> None:
        if session.info.pop("ended", False):
            reach("after result")

    event.listen(Session, "after_flush", flushed)
    event.listen(Session, "after_commit", committed)

    claim = module.SqlJobStore.claim

    def claimed(self: Any, *args: Any, **named: Any) -> Any:
        lease = claim(self, *args, **named)
        if lease is not None and lease.payload.kind == "search":
            reach("claim")
        return lease

    module.SqlJobStore.claim = claimed


def _blobs(module: Any) -> None:
    """In the middle of writing a checkpoint, its bytes on the disk under no name yet; and before its event."""
    put, fsync = module.FolderBlobs.put, os.fsync

    def torn(fd: Any) -> None:
        fsync(fd)
        if _training():
            reach("checkpoint")

    def stored(self: Any, data: bytes) -> Any:
        sha256 = put(self, data)
        if _training():
            reach("blob")
        return sha256

    os.fsync = torn
    module.FolderBlobs.put = stored


def _training() -> bool:
    return "nas.stages.train" in sys.modules


def _train(module: Any) -> None:
    """In the middle of an epoch, after a checkpoint."""
    train = module.run_training

    def stepped(*args: Any, **named: Any) -> Iterator[Any]:
        checkpointed = False
        for event in train(*args, **named):
            yield event
            if isinstance(event, module.Step):
                if checkpointed and event.done % 10 == 5:
                    reach("epoch")
            else:
                checkpointed = True

    module.run_training = stepped


def _after(function: str, point: str) -> Hook:
    """Right after a function of the module has returned."""

    def hook(module: Any) -> None:
        call = getattr(module, function)

        def called(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            reach(point)
            return result

        setattr(module, function, called)

    return hook


def _measure(module: Any) -> None:
    """Latency as a function of the model's size, and a machine that is always the same."""

    def measure(
        models: Sequence[bytes],
        profile: Any,
        networks: Sequence[str] = (),
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Any]:
        for i, model in enumerate(models):
            if i == 1 and _training():
                reach("measure")
            ms = 0.02 + len(model) * 1e-6
            yield module.Measurement(profile.protocol.id, profile.id, ms, ms, ms, 9, 0.0, 1.0, None, (ms,) * 9)

    def profile_machine(name: str, protocol: Any, *_: object) -> Any:
        return module.DeviceProfile(name, "x86_64", "synthetic", 2, "onnxruntime", "0", "none", protocol, (), 0.1)

    module.measure_isolated = measure
    module.profile_machine = profile_machine


HOOKS: dict[str, Hook] = {
    "nas.datasets.prepared.shards": _after("write_shard", "shard"),  # between two shards of a data set
    "server.store.jobs": _store,
    "nas.blobs": _blobs,
    "nas.stages.train": _train,
    "nas.stages.export": _after("package", "export"),  # between two models
    "predictors.measurement.isolated": _measure,
}

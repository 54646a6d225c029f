"""Every process of the service is killed at every delicate point of a search; each search has to end as if nothing
had happened.

A case is a point (``benchmarks.kill_points``), a victim, a database and a search. The undisturbed run of the search
tells what the end is: equal fronts, equal points, equal models, bit by bit, and nothing measured or exported twice. Two
searches are like the others but that one trains on two ranks, of which one dies, and one prepares its data in tasks, of
which one dies. In the last cases a dispatcher is stopped (SIGSTOP) until another one has taken its search over and
ended it; then it wakes up and must not write anything. Prints ``cases``, ``survived``, ``lost``, ``doubled`` and
``fenced_writes``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import psycopg
from sklearn.datasets import load_digits

from benchmarks import _cli
from benchmarks.kill_points import FOLDER, POINT
from nas.client import Client, UnexpectedAnswer, Unreachable
from nas.core.errors import HwnasError
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ExportSpec, ResourceSpec, SearchSpec, StrategySpec
from nas.schemas.candidates import ArtifactSchema, CandidateSchema
from tests.support.databases import postgres_missing, postgres_server

T = TypeVar("T")
Victim = Literal["server", "dispatcher", "worker", "raylet", "ray head", "connections"]
PATIENCE_S = 240.0
LEASE_S = 4.0
KEY = "the one and only"
SPEC = SearchSpec(
    name="survivor",
    strategy=StrategySpec(params={"epochs": 2, "checkpoint_s": 0.3}),
    budget=BudgetSpec(evaluations=8, verified=3),
    export=ExportSpec(count=2, int8=False),
)
WITH_RANKS = SPEC.model_copy(update={"name": "with two ranks", "resources": ResourceSpec(cpus=2, ranks=2)})
# Who is there to be killed, and matters, at each point.
MATRIX: Mapping[str, tuple[Victim, ...]] = {
    "enqueue": ("server", "connections"),
    "claim": ("server", "dispatcher", "raylet", "ray head", "connections"),
    "epoch": ("server", "dispatcher", "worker", "raylet", "ray head", "connections"),
    "checkpoint": ("dispatcher", "worker", "raylet", "connections"),
    "blob": ("dispatcher", "worker", "raylet", "connections"),
    "measure": ("server", "dispatcher", "worker", "raylet"),
    "export": ("dispatcher", "worker", "ray head"),
    "before result": ("server", "dispatcher", "connections"),
    "after result": ("dispatcher", "raylet"),
}


@dataclass(frozen=True)
class KillCase:
    """One run of the service. ``stall``: the victim is stopped past its lease instead of killed."""

    point: str
    victim: Victim
    database: Literal["sqlite", "postgresql"]
    stall: bool = False
    spec: SearchSpec = SPEC

    @property
    def name(self) -> str:
        """For people."""
        act = "stopped past its lease" if self.stall else "killed"
        search = "" if self.spec is SPEC else f", a search {self.spec.name}"
        return f"{self.victim} {act} at {self.point!r}, {self.database}{search}"


@dataclass(frozen=True)
class End:
    """What a search left behind, by keys that two runs share."""

    status: str
    front: tuple[Any, ...]
    points: Mapping[Any, Any]
    exports: Mapping[Any, Any]
    counts: Counter[Any]


@dataclass(frozen=True)
class Verdict:
    """How a case went; empty ``wrong``: it survived."""

    wrong: str = ""
    lost: int = 0
    doubled: int = 0
    fenced_writes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a service keeps things: a home folder, and a database if that is not in it."""

    home: Path
    database_url: str = ""


def with_prepared_data(folder: Path) -> SearchSpec:
    """The search over a file of digits in ``folder``, whose images are prepared on the disk."""
    digits = load_digits()
    path = folder / "digits.npz"
    np.savez(path, x=(digits.images * 15).astype(np.uint8), y=digits.target)
    data = DataSpec(name="npz", path=str(path), params={"storage": "decoded"})
    return SPEC.model_copy(update={"name": "with prepared data", "data": data})


def cases(prepared: SearchSpec) -> list[KillCase]:
    """All of them; the two databases take turns, but connections can only be cut to a server. ``prepared`` is the
    search whose data are prepared."""
    out: list[KillCase] = []
    for point, victims in MATRIX.items():
        for victim in victims:
            turn: Literal["sqlite", "postgresql"] = "sqlite" if len(out) % 2 else "postgresql"
            out.append(KillCase(point, victim, "postgresql" if victim == "connections" else turn))
    return [
        *out,
        KillCase("epoch", "worker", "postgresql", spec=WITH_RANKS),
        KillCase("shard", "worker", "sqlite", spec=prepared),
        KillCase("epoch", "dispatcher", "sqlite", stall=True),
        KillCase("blob", "dispatcher", "postgresql", stall=True),
    ]


class Service:
    """``nas serve`` with one armed point, in a process group of its own."""

    def __init__(self, place: Place, folder: Path, point: str, port: int) -> None:
        self.place, self.folder, self.port = place, folder, port
        self.url = f"http://127.0.0.1:{port}"
        paths = [str(_cli.ROOT / "benchmarks" / "inject"), str(_cli.ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
            "OMP_NUM_THREADS": "1",
            "HWNAS_HOME": str(place.home),
            "HWNAS_DATABASE_URL": place.database_url,
            "HWNAS_PORT": str(port),
            "HWNAS_LEASE_SECONDS": str(LEASE_S),
            "HWNAS_POLL_SECONDS": "0.1",
            POINT: point,
            FOLDER: str(folder),
        }
        self.start()

    def start(self) -> None:
        """Starts the service and waits until it answers and has its dispatcher."""
        self.child = self._run("serve")
        self.wait_ready()

    def wait_ready(self) -> None:
        """Raises RuntimeError with the log's end when the service does not come up."""

        def ready() -> bool | None:
            if self.child.poll() is not None:
                raise RuntimeError(f"nas serve ended with {self.child.returncode}: {self.log_end()}")
            with Client(self.url) as client:
                return client.health().status == "ok" or None

        wait_for(ready, 90, "the service did not come up")

    def second_dispatcher(self) -> subprocess.Popen[bytes]:
        """Another dispatcher beside the supervised one."""
        return self._run("dispatch")

    def log_end(self) -> str:
        """The last words of the service."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Ends everything that belongs to the service."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(25)
        for pid in descendants(self.child.pid, self.environment[FOLDER]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()

    def pids(self, victim: Victim) -> list[int]:
        """The processes of one kind."""
        mine = {pid: command_line(pid) for pid in descendants(self.child.pid, self.environment[FOLDER])}
        match victim:
            case "server":
                return [self.child.pid]
            case "dispatcher":
                return [p for p, c in mine.items() if "dispatch" in c and "ray" not in Path(c.split("\0")[0]).name]
            case "worker":
                return [p for p, c in mine.items() if c.startswith("ray::")]
            case "raylet":
                return [p for p, c in mine.items() if Path(c.split("\0")[0]).name == "raylet"]
            case "ray head":
                return [p for p, c in mine.items() if Path(c.split("\0")[0]).name == "gcs_server"]
            case "connections":
                return []

    def _run(self, command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "server.cli", command],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def descendants(pid: int, mark: str) -> list[int]:
    """All processes below ``pid``, and all others whose environment holds ``mark``: orphans have no parents."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (pid, os.getpid()):
            with contextlib.suppress(OSError):
                if f"{FOLDER}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return pids


def command_line(pid: int) -> str:
    """The words of a process's command, with NULs between; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(poll: Callable[[], T | None], seconds: float, otherwise: str) -> T:
    """The first answer that is not None; no answer from the service is none. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Unreachable, UnexpectedAnswer):
            if (value := poll()) is not None:
                return value
        time.sleep(0.1)
    raise TimeoutError(f"{otherwise} within {seconds:g} s")


def run_case(case: KillCase, place: Place, expected: End | None, port: int) -> tuple[Verdict, End | None]:
    """Runs one case in a place of its own. ``expected`` None: nothing is killed, the end is what is wanted."""
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hwnas-kill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        service = Service(place, folder, case.point if expected is not None else "", port)
        other: subprocess.Popen[bytes] | None = None
        try:
            with ThreadPoolExecutor(1) as pool:
                submitted = pool.submit(_submit, service.url, case.spec)
                fenced = 0
                if expected is not None:
                    point = wait_for(lambda: _reached(folder), PATIENCE_S, f"{case.point!r} was not reached")
                    if case.stall:
                        other = service.second_dispatcher()
                        fenced = _stall(service, submitted.result(), folder)
                    else:
                        _kill(service, case, point)
                        (folder / "go").touch()
                        if case.victim == "server":
                            service.child.wait()
                            service.start()
                search_id = submitted.result(timeout=PATIENCE_S)
            end = _end(service.url, search_id)
            if expected is None:
                return Verdict(seconds=time.monotonic() - start_s), end
            return replace(
                _compare(end, expected, service.url), fenced_writes=fenced, seconds=time.monotonic() - start_s
            ), end
        except (TimeoutError, RuntimeError, HwnasError) as error:
            wrong = f"{type(error).__name__}: {error}\n{service.log_end()}"
            return Verdict(wrong=wrong, lost=1, seconds=time.monotonic() - start_s), None
        finally:
            if other is not None:
                other.kill()
                other.wait()
            service.stop()


def _submit(url: str, spec: SearchSpec) -> str:
    """Submits the search as a careful client does: the same key until there is an answer."""

    def once() -> str | None:
        with Client(url, timeout_s=60) as client:
            try:
                return client.submit(spec, key=KEY).id
            except HwnasError as error:
                if error.code in ("storage", "storage_busy"):  # it may be written or not
                    return None
                raise

    return wait_for(once, PATIENCE_S, "the search was not accepted")


def _reached(folder: Path) -> int | None:
    try:
        return int((folder / "reached").read_text() or 0) or None
    except FileNotFoundError:
        return None


def _kill(service: Service, case: KillCase, worker_pid: int) -> None:
    if case.victim == "connections":
        name = service.place.database_url.split("/")[3].split("?")[0]
        host = service.place.database_url.partition("host=")[2]
        with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            cut = connection.execute(query, [name]).fetchall()
        if not cut:
            raise RuntimeError("there was no connection to cut")
        return
    victims = [worker_pid] if case.victim == "worker" else service.pids(case.victim)
    if not victims:
        raise RuntimeError(f"there was no {case.victim} to kill")
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, victims)) or None, 10, "the victim did not die")


def _stall(service: Service, search_id: str, folder: Path) -> int:
    """Stops the dispatcher until another one has ended its search; how many events it writes when it wakes up."""
    first = [p for p in service.pids("dispatcher") if "--supervised" in command_line(p)]
    if len(first) != 1:
        raise RuntimeError(f"expected one dispatcher to stop, found {len(first)}")
    for pid in first:
        os.kill(pid, signal.SIGSTOP)
    (folder / "go").touch()
    before = _end(service.url, search_id)
    with Client(service.url) as client:
        last = client.search(search_id).last_event
        for pid in first:
            os.kill(pid, signal.SIGCONT)
        time.sleep(2 * LEASE_S)
        after = client.search(search_id)
    changed = _end(service.url, search_id) != before
    return after.last_event - last + changed


def _end(url: str, search_id: str) -> End:
    """Waits for the end of a search and reads everything it left."""

    def ended() -> str | None:
        with Client(url) as client:
            status = client.search(search_id).status
        return status if status in ("succeeded", "failed", "cancelled", "quarantined") else None

    status = wait_for(ended, PATIENCE_S, f"search {search_id} did not end")
    with Client(url) as client:
        candidates = client.candidates(search_id, limit=1000, order="position").items
        front = client.front(search_id)
        events = client.events(search_id, limit=1000).items
        exports = {(a.arch, a.name): _content(client, a) for a in client.artifacts(search_id)}
    counts: Counter[Any] = Counter()
    for event in events:
        body = event.body
        if body["kind"] == "measured":
            counts["measured", body["origin"], tuple(body["arch"]["genes"])] += 1
        elif body["kind"] == "exported":
            counts["exported", tuple(body["arch"]["genes"])] += 1
    return End(
        status=status,
        front=tuple((_key(p), sorted((k, m.value) for k, m in p.metrics.items())) for p in front.members),
        points={_key(p): (sorted((k, m.value) for k, m in p.metrics.items()), p.status) for p in candidates},
        exports=exports,
        counts=counts,
    )


def _content(client: Client, artifact: ArtifactSchema) -> dict[str, str]:
    """The sha256 of every file of a package, of its manifest without the id of the search, which differs."""
    with tempfile.TemporaryDirectory(prefix="hwnas-kill-") as folder:
        package = client.download(artifact, Path(folder) / "package.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents["manifest.json"])
    manifest["search"].pop("id")
    contents["manifest.json"] = json.dumps(manifest).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _key(point: CandidateSchema) -> tuple[str, str]:
    return point.origin, point.arch


def _compare(end: End, expected: End, url: str) -> Verdict:
    wrong = []
    if end.status != expected.status:
        wrong.append(f"it {end.status}")
    for part in ("front", "points", "exports"):
        if getattr(end, part) != getattr(expected, part):
            wrong.append(f"other {part}")
    with Client(url) as client:
        searches = len(client.searches(limit=10).items)
    lost = len(expected.points.keys() - end.points.keys()) + (expected.counts - end.counts).total() + (searches < 1)
    doubled = (end.counts - expected.counts).total() + len(end.points.keys() - expected.points.keys()) + (searches > 1)
    return Verdict("; ".join(wrong), lost, doubled)


@contextlib.contextmanager
def _templates(root: Path) -> Iterator[Callable[[KillCase], Place]]:
    """Places with a device already in them, for each database; every call of the result makes a fresh copy."""
    sqlite = Place(root / "sqlite")
    with postgres_server() as server:

        def database(name: str, template: str) -> str:
            with psycopg.connect(host=server, user="postgres", dbname="postgres", autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            return f"postgresql://postgres@/{name}?host={server}"

        postgres = Place(root / "postgresql", database("template", "template0"))
        for place in (sqlite, postgres):
            folder = root / "log" / place.home.name
            folder.mkdir(parents=True)
            service = Service(place, folder, "", _free_port())
            try:
                with Client(service.url) as client:
                    client.add_device(DeviceSpec(samples=32))
                    for _ in client.watch_device("this-machine"):
                        pass
                    if client.device("this-machine").status != "succeeded":
                        raise RuntimeError(f"no device: {client.device('this-machine').error}")
            finally:
                service.stop()
        homes = 0
        lock = threading.Lock()

        def fresh(case: KillCase) -> Place:
            nonlocal homes
            with lock:
                homes += 1
                home = root / f"case-{homes}"
                if case.database == "sqlite":
                    shutil.copytree(sqlite.home, home)
                    return Place(home)
                shutil.copytree(postgres.home, home)
                return Place(home, database(home.name, "template"))

        yield fresh


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def bench(options: _cli.Options, only: str = "", parallel: int = 2) -> dict[str, Any]:
    """All cases whose name contains ``only``, ``parallel`` at a time."""
    if (missing := postgres_missing()) is not None:
        sys.exit(f"the kill matrix needs PostgreSQL: {missing}")
    with (
        tempfile.TemporaryDirectory(prefix="hwnas-matrix-", ignore_cleanup_errors=True) as name,
        _templates(Path(name)) as fresh,
    ):
        todo = [case for case in cases(with_prepared_data(Path(name))) if only in case.name]
        ends: dict[str, End] = {}
        for spec in {case.spec.name: case.spec for case in todo}.values():
            calm = KillCase("", "server", "sqlite", spec=spec)
            verdict, expected = run_case(calm, fresh(calm), None, _free_port())
            if expected is None or expected.status != "succeeded":
                sys.exit(f"the undisturbed search {spec.name} did not succeed: {verdict.wrong}")
            ends[spec.name] = expected

        def one(case: KillCase) -> Verdict:
            verdict, _ = run_case(case, fresh(case), ends[case.spec.name], _free_port())
            print(f"{case.name}: {verdict.wrong or 'survived'} ({verdict.seconds:.0f} s)", file=sys.stderr)
            return verdict

        with ThreadPoolExecutor(parallel) as pool:
            verdicts = list(pool.map(one, todo))
    return {
        "cases": len(todo),
        "survived": sum(not v.wrong for v in verdicts),
        "lost": sum(v.lost for v in verdicts),
        "doubled": sum(v.doubled for v in verdicts),
        "fenced_writes": sum(v.fenced_writes for v in verdicts),
        "front_size": {name: len(end.front) for name, end in ends.items()},
        "points": {name: len(end.points) for name, end in ends.items()},
        "each": {c.name: {"survived": not v.wrong, "seconds": v.seconds} for c, v in zip(todo, verdicts, strict=True)},
    }


if __name__ == "__main__":
    _cli.main("kill_matrix", bench, __doc__ or "", ("hwnas", "ray", "sqlalchemy"))

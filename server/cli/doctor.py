"""``nas doctor``: checks everything the service depends on, and says how to fix what failed."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from nas.blobs import open_blobs
from nas.client import Client
from nas.core.errors import HwnasError
from nas.cpus import available_cpus
from nas.schemas.service import HealthCheckSchema
from server.api.access import requires_tokens
from server.cli.local_store import missing_database
from server.settings import Settings
from server.store.database import connect
from server.store.store import open_store

SKEW_S = 5.0  # between this machine's clock and the database's
SLOW_MS = 50.0


def examine(settings: Settings) -> Iterator[HealthCheckSchema]:
    """The results of all checks, one by one. Checks write nothing but a probe blob."""
    for name, check in CHECKS.items():
        yield _run_check(name, check, settings)


def examine_service(url: str, token: str | None) -> Iterator[HealthCheckSchema]:
    """Whether a service elsewhere answers, and its own checks."""
    with Client(url, token=token, timeout_s=10.0) as nas:
        try:
            health, readiness = nas.health(), nas.ready()
        except HwnasError as error:
            yield HealthCheckSchema(name="address", status="failed", detail=str(error))
            return
    ready = "ready" if readiness.ready else "not ready"
    detail = f"{url} is served by hwnas {health.version}, {ready}"
    yield HealthCheckSchema(name="address", status="ok" if readiness.ready else "failed", detail=detail)
    yield from readiness.checks


def _run_check(name: str, check: Callable[[Settings], HealthCheckSchema], settings: Settings) -> HealthCheckSchema:
    try:
        return check(settings)
    except HwnasError as error:
        return HealthCheckSchema(name=name, status="failed", detail=str(error))
    except OSError as error:
        return HealthCheckSchema(name=name, status="failed", detail=f"{error.strerror or error}")


def _home(settings: Settings) -> HealthCheckSchema:
    existing = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    if not existing.is_dir():
        detail = f"{settings.home} cannot be a folder: {existing} is a file"
        return HealthCheckSchema(name="home", status="failed", detail=detail)
    if not settings.home.exists():
        return HealthCheckSchema(
            name="home", status="warning", detail=f"{settings.home} does not exist; `nas serve` creates it"
        )
    good = os.access(settings.home, os.W_OK)
    detail = f"{settings.home}" if good else f"{settings.home} cannot be written; check its owner"
    return HealthCheckSchema(name="home", status="ok" if good else "failed", detail=detail)


def _database(settings: Settings) -> HealthCheckSchema:
    if missing_database(settings) is not None:
        return HealthCheckSchema(name="database", status="warning", detail="none yet; `nas serve` creates it")
    with open_store(settings.database, settings.blobs) as store:  # migrates, or says that it is too new
        started_at = time.monotonic()
        store.queries.counts(1.0)
        ms = 1e3 * (time.monotonic() - started_at)
        detail = f"{store.queries.database}, revision {store.queries.revision()}, answers in {ms:.1f} ms"
    status = "ok" if ms < SLOW_MS else "warning"
    return HealthCheckSchema(
        name="database", status=status, detail=detail + ("" if status == "ok" else ", which is slow")
    )


def _storage(settings: Settings) -> HealthCheckSchema:
    if not settings.blobs_url and not settings.home.exists():
        return HealthCheckSchema(name="storage", status="warning", detail="none yet; `nas serve` creates it")
    blobs = open_blobs(settings.blobs)
    probe = b"hwnas doctor"
    sha256 = blobs.put(probe)
    intact = blobs.get(sha256) == probe
    blobs.delete(sha256)
    detail = f"{settings.blobs}: written, read and removed" if intact else f"{settings.blobs} returned other bytes"
    return HealthCheckSchema(name="storage", status="ok" if intact else "failed", detail=detail)


def _disk(settings: Settings) -> HealthCheckSchema:
    place = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    usage = shutil.disk_usage(place)
    share = usage.free / usage.total
    detail = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    if share < 0.02:
        return HealthCheckSchema(name="disk", status="failed", detail=f"{detail}; make room, or try `nas gc`")
    return HealthCheckSchema(name="disk", status="ok" if share > 0.1 else "warning", detail=detail)


def _memory(settings: Settings) -> HealthCheckSchema:
    info = Path("/proc/meminfo")
    if not info.exists():
        return HealthCheckSchema(name="memory", status="ok", detail="not known on this system")
    kb = {line.split(":")[0]: int(line.split()[1]) for line in info.read_text().splitlines() if ":" in line}
    free, total = kb["MemAvailable"] / 1e6, kb["MemTotal"] / 1e6
    needed = 2.0 * settings.parallel_jobs
    detail = f"{free:.1f} of {total:.1f} GB available"
    if free < needed:
        return HealthCheckSchema(
            name="memory", status="warning", detail=f"{detail}; a search on digits takes about 2 GB"
        )
    return HealthCheckSchema(name="memory", status="ok", detail=detail)


def _clock(settings: Settings) -> HealthCheckSchema:
    if not settings.database.startswith("postgres"):
        return HealthCheckSchema(name="clock", status="ok", detail="the database is on this machine and has the same")
    engine = connect(settings.database)
    try:
        with engine.connect() as connection:
            database_time = float(
                connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one()
            )
    finally:
        engine.dispose()
    skew = time.time() - database_time
    detail = f"{skew:+.2f} s from the database's"
    if abs(skew) > SKEW_S:
        return HealthCheckSchema(
            name="clock",
            status="warning",
            detail=f"{detail}; leases go by the database's, times in logs do not: run NTP",
        )
    return HealthCheckSchema(name="clock", status="ok", detail=detail)


def _address(settings: Settings) -> HealthCheckSchema:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        near = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        in_use = probe.connect_ex((near, settings.port)) == 0
    where = f"{settings.host}:{settings.port}"
    if not in_use:
        return HealthCheckSchema(name="address", status="ok", detail=f"{where} is free")
    host = f"[{near}]" if ":" in near else near
    with Client(f"http://{host}:{settings.port}", timeout_s=3.0) as nas:
        view = nas.ready()
    wrong = ", ".join(f"{c.name}: {c.detail}" for c in view.checks if c.status != "ok")
    status = "ok" if view.ready and not wrong else "warning" if view.ready else "failed"
    return HealthCheckSchema(
        name="address", status=status, detail=f"{where} is served by hwnas; {wrong or 'it is ready'}"
    )


def _tokens(settings: Settings) -> HealthCheckSchema:
    if not requires_tokens(settings):
        return HealthCheckSchema(
            name="tokens", status="ok", detail="not needed: the service is open to this machine alone"
        )
    valid = False
    if missing_database(settings) is None:
        with open_store(settings.database, settings.blobs) as store:
            valid = store.tokens.any_valid()
    detail = "needed, and there are some" if valid else "needed, and there is none: nas tokens create"
    return HealthCheckSchema(name="tokens", status="ok" if valid else "failed", detail=detail)


def _ray(settings: Settings) -> HealthCheckSchema:
    release = version("ray")
    if settings.ray_address is None:
        return HealthCheckSchema(name="ray", status="ok", detail=f"{release}, started by `nas serve` on this machine")
    host, _, port = settings.ray_address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return HealthCheckSchema(name="ray", status="warning", detail=f"{release}; the port of its address is unknown")
    with socket.create_connection((host or "127.0.0.1", int(port)), timeout=3.0):
        return HealthCheckSchema(
            name="ray", status="ok", detail=f"{release}; {settings.ray_address} accepts connections"
        )


def _runtime(_settings: Settings) -> HealthCheckSchema:
    names = ("hwnas", "torch", "onnx", "onnxruntime", "numpy")
    return HealthCheckSchema(name="runtime", status="ok", detail=", ".join(f"{n} {version(n)}" for n in names))


def _quiet(_settings: Settings) -> HealthCheckSchema:
    """Latency is measured on this machine, so it should be idle, with a steady clock rate."""
    cores = available_cpus()
    load = os.getloadavg()[0]
    governors = {p.read_text().strip() for p in Path("/sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")}
    words = [f"load {load:.1f} on {cores} core{'' if cores == 1 else 's'}"]
    if unsteady := governors - {"performance"}:
        words.append(f"clock rates vary ({', '.join(sorted(unsteady))}); `performance` gives steadier measurements")
    busy = load > cores
    return HealthCheckSchema(name="quiet", status="warning" if busy or unsteady else "ok", detail="; ".join(words))


CHECKS: Mapping[str, Callable[[Settings], HealthCheckSchema]] = {
    "home": _home,
    "database": _database,
    "storage": _storage,
    "disk": _disk,
    "memory": _memory,
    "clock": _clock,
    "address": _address,
    "tokens": _tokens,
    "ray": _ray,
    "runtime": _runtime,
    "quiet": _quiet,
}
"""The checks by name, in their order; docs/troubleshooting.md says what to do when one fails."""

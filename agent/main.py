"""``nas-agent``: makes this machine a device of an hwnas service elsewhere.

It asks the service for one network at a time, measures it by the service's protocol in a process of its own, and sends
the raw times back. It keeps nothing: it may be killed and started again at any moment, and what it was at is measured
anew. Needs onnxruntime, numpy and httpx.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import platform
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from agent.service import Refused, Service
from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.errors import MeasurementRefused
from predictors.measurement.onnx_runtime import describe_machine, profile_machine, require_cores, time_isolated

log = logging.getLogger("nas-agent")

POLL_S = 1.0
BUSY_S = 5.0  # between two tries while another process of this name is at work
STOPPED, WRONG = 0, 2


class Stop(BaseException):
    """SIGTERM or SIGINT, wherever the agent was."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the agent until it is stopped. Exit status 2 for what was asked wrongly, such as with an unknown token."""
    given = _parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s nas-agent: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise Stop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        service = Service(given.server, given.token, given.name, stopping, log.warning)
        agent = Agent(service, given.name, given.threads, stopping, given.poll)
        agent.run(given.tasks)
    except Stop:
        log.info("stopped")
    except (Refused, MeasurementRefused, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        sys.exit(_last_words(error))


class Agent:
    """One process that measures under one name. ``instance`` tells it from others of that name."""

    def __init__(self, service: Service, name: str, threads: int, stopping: threading.Event, poll_s: float) -> None:
        self._service = service
        self._name = name
        self._threads = threads
        self._stopping = stopping
        self._poll_s = poll_s
        self._instance = secrets.token_hex(8)

    def run(self, tasks: int | None = None) -> None:
        """Measures until it is stopped, or for so many ``tasks``. Raises Refused, and MeasurementRefused for a machine
        that has fewer cores than threads."""
        self.register()
        done = 0
        while not self._stopping.is_set() and (tasks is None or done < tasks):
            try:
                task = self._service.claim(self._instance)
            except Refused as error:
                if error.status == 404:  # the service has forgotten us
                    self.register()
                    continue
                if error.status != 409:
                    raise
                log.warning("%s", error)
                self._stopping.wait(BUSY_S)
                continue
            if task is None:
                self._stopping.wait(self._poll_s)
                continue
            self.measure(task)
            done += 1

    def register(self) -> None:
        """Says what this machine is; measures the canary first if the service does not know its usual time yet."""
        here = describe_machine(self._name, MeasurementProtocol(threads=self._threads), "agent")
        require_cores(here)
        while not self._stopping.is_set():
            try:
                if self._service.register(_registration(self._instance, here)) is not None:
                    log.info("registered as %r: %s, %d threads", self._name, here.processor, self._threads)
                    return
            except Refused as error:
                if error.status != 409 or error.code != "conflict" or "One at a time" not in str(error):
                    raise
                log.warning("%s", error)
                self._stopping.wait(BUSY_S)
                continue
            log.info("measuring this machine's usual speed; leave it alone meanwhile")
            try:
                here = profile_machine(self._name, self._threads, "agent")
            except MeasurementRefused as error:
                log.warning("%s", error)
                self._stopping.wait(BUSY_S)

    def measure(self, task: Mapping[str, Any]) -> None:
        """Measures one network and sends its times, or why there are none."""
        log.info("measuring network %s", task["network"])
        try:
            with self._holding(task):
                result = self._result_of(task)
            self._service.finish(task, **result)
        except Refused as error:
            if error.status not in (404, 409):
                raise
            log.warning("network %s: %s", task["network"], error)
        except Stop:
            with suppress(httpx.TransportError):
                self._service.release(task)
            raise

    def _result_of(self, task: Mapping[str, Any]) -> dict[str, Any]:
        profile = DeviceProfile.from_json(dict(task["profile"]))
        try:
            model = self._model(task)
            [timing] = time_isolated([model], profile)
        except MeasurementRefused as error:
            log.warning("network %s: %s", task["network"], error)
            return {"error": str(error)[:2000]}
        return {"timing": timing.as_json()}

    def _model(self, task: Mapping[str, Any]) -> bytes:
        """Raises MeasurementRefused for bytes that are not those that were meant, twice in a row."""
        for _ in range(2):
            model = self._service.model(task)
            found = hashlib.sha256(model).hexdigest()
            if found == task["sha256"]:
                return model
        raise MeasurementRefused(f"the model came damaged: expected sha256 {task['sha256']}, got {found}")

    @contextmanager
    def _holding(self, task: Mapping[str, Any]) -> Iterator[None]:
        """Renews the lease from a thread of its own while the block lasts. A lease that is lost is no reason to stop:
        the service says what counts when it gets the result."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(task["seconds"] / 4):
                with suppress(httpx.TransportError, ValueError):
                    if not self._service.beat(task):
                        return

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(1.0)  # it may be waiting for an answer, which matters no more


def _registration(instance: str, profile: DeviceProfile) -> dict[str, Any]:
    record = profile.as_json()
    threads = record.pop("protocol")["threads"]
    for known in ("name", "source"):
        record.pop(known)
    versions = {"python": platform.python_version(), **{p: _version(p) for p in ("onnxruntime", "numpy", "hwnas")}}
    return {
        "instance": instance,
        "profile": {**record, "affinity": list(profile.affinity), "threads": threads},
        "versions": {k: v for k, v in versions.items() if v},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _last_words(error: Exception) -> int:
    if isinstance(error, Refused) and error.status == 0:
        return STOPPED
    sys.stderr.write(f"nas-agent: {error}\n")
    return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nas-agent",
        description="Makes this machine a device of an hwnas service. Needs onnxruntime, numpy and httpx.",
        epilog="Then, for the service to measure networks on it: nas devices add NAME --agent",
    )
    parser.add_argument("--server", required=True, help="address of the service, such as https://nas.example:8765")
    parser.add_argument(
        "--token",
        default=os.environ.get("HWNAS_TOKEN"),
        help="API token with the scope `device`; better given in HWNAS_TOKEN, where other users cannot see it",
    )
    parser.add_argument("--name", required=True, help="name of the device")
    parser.add_argument("--threads", type=_positive, default=1, help="threads to measure with (1)")
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="SECONDS", help="how often to ask for work (1)")
    parser.add_argument("--tasks", type=_positive, help="stop after so many networks")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return number

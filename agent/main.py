"""``nas-agent``: make this machine a device of a remote hwnas service.

The agent claims one network at a time, measures it by the service's protocol in a separate process, and sends the raw
times. It stores nothing: it may be killed and restarted at any time, and an interrupted network is measured again.
Needs numpy, httpx and the runtime that it measures with: onnxruntime, unless ``--runtime`` names another.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import platform
import secrets
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

import httpx

from agent.service import AGENT_BUSY, CONFLICT, NOT_FOUND, STOPPED, ServiceClient, ServiceError
from nas.core.device import MeasurementProtocol
from nas.core.errors import HwnasError, MeasurementRefused
from nas.core.runtimes import DEFAULT_RUNTIME, PRECISIONS, Execution, RuntimeTarget, runtime_names
from nas.core.timing import MeasurementTask, Timing
from predictors.measurement.isolated import profile_machine, time_isolated
from predictors.measurement.machine import describe_machine, require_cores

log = logging.getLogger("nas-agent")

POLL_S = 1.0
BUSY_S = 5.0  # between two tries while another process measures under this name
EXIT_STOPPED, EXIT_USAGE = 0, 2


class Stop(BaseException):
    """SIGTERM or SIGINT. Not an Exception, so that it ends the agent at any point."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the agent until it is stopped. Exit status 2 on a wrong request, such as an unknown token."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s nas-agent: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise Stop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        service = ServiceClient(options.server, options.token, options.name, stopping, log.warning)
        agent = Agent(service, options.name, way_of(options), stopping, options.poll)
        agent.run(options.tasks)
    except Stop:
        log.info("stopped")
    except (ServiceError, HwnasError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        sys.exit(_exit_status(error))


@dataclass(frozen=True)
class MeasuredWay:
    """How an agent measures: by which runtime, and by a protocol with its threads, batch and precision."""

    execution: Execution = field(default_factory=Execution)
    protocol: MeasurementProtocol = field(default_factory=MeasurementProtocol)


class Agent:
    """One process that measures under one name. ``instance`` distinguishes it from other processes of that name."""

    def __init__(
        self, service: ServiceClient, name: str, way: MeasuredWay, stopping: threading.Event, poll_s: float
    ) -> None:
        self._service = service
        self._name = name
        self._way = way
        self._stopping = stopping
        self._poll_s = poll_s
        self._instance = secrets.token_hex(8)

    def run(self, tasks: int | None = None) -> None:
        """Measure until stopped, or until ``tasks`` are done. Raises ServiceError, and MeasurementRefused for a machine
        with fewer cores than threads."""
        self.register()
        done = 0
        while not self._stopping.is_set() and (tasks is None or done < tasks):
            try:
                task = self._service.claim(self._instance)
            except ServiceError as error:
                if error.code == NOT_FOUND:  # the service has lost the registration
                    self.register()
                elif error.code == AGENT_BUSY:
                    self._wait_while_busy(error)
                else:
                    raise
                continue
            if task is None:
                self._stopping.wait(self._poll_s)
                continue
            self.measure(task)
            done += 1

    def register(self) -> None:
        """Register this machine; measure the canary first if the service does not know its time yet."""
        way = self._way
        profile = describe_machine(self._name, way.protocol, "agent", way.execution)
        require_cores(profile)
        while not self._stopping.is_set():
            try:
                if self._service.register(self._instance, profile, _versions()) is not None:
                    log.info("registered as %r: %s, %s", self._name, profile.processor, profile.runtime)
                    return
            except ServiceError as error:
                if error.code != AGENT_BUSY:
                    raise
                self._wait_while_busy(error)
                continue
            log.info("measuring this machine's usual speed; leave it alone meanwhile")
            try:
                profile = profile_machine(self._name, way.protocol, "agent", way.execution)
            except MeasurementRefused as error:
                log.warning("%s", error)
                self._stopping.wait(BUSY_S)

    def measure(self, task: MeasurementTask) -> None:
        """Measure one network and send its times, or the reason why there are none."""
        log.info("measuring network %s", task.network)
        try:
            with self._renewing(task):
                result = self._time(task)
            self._service.finish(task, result)
        except ServiceError as error:
            if error.code not in (NOT_FOUND, CONFLICT):  # of a lease that no longer holds
                raise
            log.warning("network %s: %s", task.network, error)
        except Stop:
            with suppress(httpx.TransportError):
                self._service.release(task)
            raise

    def _wait_while_busy(self, error: ServiceError) -> None:
        log.warning("%s", error)
        self._stopping.wait(BUSY_S)

    def _time(self, task: MeasurementTask) -> Timing | str:
        own = self._way.execution
        try:
            model = self._verified_model(task)
            execution = replace(
                task.profile.execution,
                program=own.program,
                limit_s=own.limit_s,
                peak_macs_per_s=own.peak_macs_per_s,
            )
            [timing] = time_isolated([model], task.profile, execution=execution)
        except MeasurementRefused as error:
            log.warning("network %s: %s", task.network, error)
            return str(error)[:2000]
        return timing

    def _verified_model(self, task: MeasurementTask) -> bytes:
        """Raises MeasurementRefused if the bytes do not match their sha256 twice in a row."""
        for _ in range(2):
            model = self._service.model(task)
            actual = hashlib.sha256(model).hexdigest()
            if actual == task.sha256:
                return model
        raise MeasurementRefused(f"the model came damaged: expected sha256 {task.sha256}, got {actual}")

    @contextmanager
    def _renewing(self, task: MeasurementTask) -> Iterator[None]:
        """Renew the lease in a background thread while the block runs. A lost lease does not stop the measurement,
        since the service decides whether it accepts the result."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(task.lease_seconds / 4):
                with suppress(httpx.TransportError, ValueError):
                    if not self._service.renew(task):
                        return

        thread = threading.Thread(target=renew, name="renew lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(1.0)  # it may be waiting for a response, which does not matter any more


def _versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter for measuring."""
    packages = ("onnxruntime", "openvino", "ai-edge-litert", "torch", "numpy", "hwnas", "hwnas-agent")
    versions = {package: _version(package) for package in packages}
    return {"python": platform.python_version(), **{p: v for p, v in versions.items() if v}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _exit_status(error: Exception) -> int:
    """Print the error unless the agent was stopped, and return the exit status."""
    if isinstance(error, ServiceError) and error.code == STOPPED:
        return EXIT_STOPPED
    sys.stderr.write(f"nas-agent: {error}\n")
    return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nas-agent",
        description="Make this machine a device of an hwnas service. Needs numpy, httpx and a runtime: onnxruntime, "
        "unless --runtime names another.",
        epilog="Then, for the service to measure networks on it: nas devices add NAME --agent",
    )
    parser.add_argument("--server", required=True, help="address of the service, such as https://nas.example:8765")
    parser.add_argument(
        "--token",
        default=os.environ.get("HWNAS_TOKEN"),
        help="API token with the scope `agent` for the device; give it in HWNAS_TOKEN, where other users do not see it",
    )
    parser.add_argument("--name", required=True, help="name of the device")
    parser.add_argument("--threads", type=_positive, default=1, help="threads to measure with (1)")
    parser.add_argument(
        "--runtime",
        default=DEFAULT_RUNTIME,
        help=f"what runs the networks ({DEFAULT_RUNTIME}): {', '.join(runtime_names())}",
    )
    parser.add_argument(
        "--provider",
        default="",
        help="its execution provider, device or delegate, such as CUDAExecutionProvider or NPU",
    )
    parser.add_argument("--batch", type=_positive, default=1, help="images at once (1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the networks (float32)")
    parser.add_argument(
        "--command", help="with --runtime command: a program that gets a model file and prints its latency as JSON"
    )
    parser.add_argument(
        "--command-limit", type=_positive, default=600, metavar="SECONDS", help="what the program may take (600)"
    )
    parser.add_argument(
        "--peak-gmacs",
        type=_positive,
        default=1_000_000,
        help="billions of multiplications a second that the hardware can do; faster times are refused (1000000)",
    )
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="SECONDS", help="how often to ask for work (1)")
    parser.add_argument("--tasks", type=_positive, help="stop after so many networks")
    return parser


def way_of(options: argparse.Namespace) -> MeasuredWay:
    """How to measure, by the options. Raises MeasurementRefused for options that contradict each other."""
    program = shlex.split(options.command) if options.command else []
    if bool(program) != (options.runtime == "command"):
        raise MeasurementRefused("expected --command exactly with --runtime command")
    if program and (path := shutil.which(program[0])) is not None:
        program[0] = path
    execution = Execution(
        RuntimeTarget(options.runtime, options.provider),
        options.threads,
        options.batch,
        tuple(program),
        options.command_limit,
        1e9 * options.peak_gmacs,
        options.precision,
    )
    protocol = MeasurementProtocol(threads=options.threads, batch=options.batch, precision=options.precision)
    return MeasuredWay(execution, protocol)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return number

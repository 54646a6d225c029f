"""A program of the user's that measures: ``trtexec`` of TensorRT, a phone over ``adb``, a board on a serial line.

It is called with the path of an ONNX model as its last argument and prints one JSON object on the last line of its
output. The program runs on the machine of an agent, which alone knows its command line; it never travels over REST.
What it prints is checked before it counts, since a wrong unit would otherwise become a fast network.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.core.errors import MeasurementRefused
from nas.core.placement import Placement
from nas.core.runtimes import Execution, ProgramRuntime, ProgramTimes, RuntimeIdentity, RuntimeTarget
from predictors.measurement.onnx_macs import count_macs

MOST_OUTPUT = 1 << 20  # bytes that are read of what the program prints
MOST_SAMPLES = 10_000
_KEYS = ("samples_ms", "median_ms", "peak_bytes", "energy_mj", "placement")
_SHOWN = 200  # characters of wrong output in a message


def identify(execution: Execution) -> RuntimeIdentity:
    """The program by its name, and by the hash of its file as its version, so that another program is another profile.
    Raises MeasurementRefused without a program, and for one that cannot be run."""
    path = _program(execution)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    arguments = " ".join(execution.program[1:])
    return RuntimeIdentity(RuntimeTarget("command", path.name), f"sha256 {digest}", arguments[:200])


def time_program(model: bytes, execution: Execution) -> ProgramTimes:
    """What the program says of a model. Raises MeasurementRefused if it hangs, dies, prints anything else than
    expected, or prints times that cannot be in ms: longer than it ran, or shorter than the hardware can multiply."""
    _program(execution)
    with tempfile.TemporaryDirectory(prefix="hwnas-command-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        started_s = time.monotonic()
        output = _output([*execution.program, str(path)], execution, Path(folder))
        wall_ms = 1e3 * (time.monotonic() - started_s)
    times = parse_times(output)
    check_units(times, wall_ms, count_macs(model) * execution.batch, execution.peak_macs_per_s)
    return times


def parse_times(output: str) -> ProgramTimes:
    """The last line of a program's output. Raises MeasurementRefused that says what is wrong with it."""
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    try:
        record = json.loads(last)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise MeasurementRefused(
            f'expected the program to print a JSON object such as {{"samples_ms": [1.25, 1.26]}} on its last line, '
            f"got {last[:_SHOWN]!r}"
        )
    if unknown := [key for key in record if key not in _KEYS]:
        raise MeasurementRefused(f"the program printed {unknown[0]!r}: expected {', '.join(_KEYS)}")
    if ("samples_ms" in record) == ("median_ms" in record):
        raise MeasurementRefused("expected the program to print either samples_ms or median_ms")
    samples = record["samples_ms"] if "samples_ms" in record else [record["median_ms"]]
    if not isinstance(samples, list) or not 0 < len(samples) <= MOST_SAMPLES:
        raise MeasurementRefused(f"samples_ms: expected a list of 1 to {MOST_SAMPLES:,} times")
    return ProgramTimes(
        tuple(_positive("samples_ms" if "samples_ms" in record else "median_ms", value) for value in samples),
        None if record.get("peak_bytes") is None else int(_positive("peak_bytes", record["peak_bytes"])),
        None if record.get("energy_mj") is None else _positive("energy_mj", record["energy_mj"]),
        None if record.get("placement") is None else _placement(record["placement"]),
    )


def check_units(times: ProgramTimes, wall_ms: float, macs: int, peak_macs_per_s: float) -> None:
    """Raises MeasurementRefused for times whose sum is longer than the program ran, as microseconds are, and for one
    that is shorter than so many multiplications take at the peak of the hardware, as seconds are."""
    total_ms = sum(times.samples_ms)
    if total_ms > wall_ms:
        raise MeasurementRefused(
            f"the program ran for {wall_ms:.4g} ms and says that inferences took {total_ms:.4g} ms in it: expected "
            "milliseconds; are these microseconds?"
        )
    fewest_ms, least_ms = min(times.samples_ms), 1e3 * macs / peak_macs_per_s
    if fewest_ms < least_ms:
        raise MeasurementRefused(
            f"the program says {fewest_ms:.4g} ms for {macs:,} multiplications, which take {least_ms:.4g} ms at "
            f"{peak_macs_per_s / 1e9:,.0f} billion a second: expected milliseconds; are these seconds?"
        )


def _output(command: Sequence[str], execution: Execution, folder: Path) -> str:
    """What a command prints. Its whole session is killed at the limit, children included."""
    environment = {**os.environ, "HWNAS_BATCH": str(execution.batch), "HWNAS_THREADS": str(execution.threads)}
    environment.pop("HWNAS_TOKEN", None)  # the program needs no access to the service
    errors, printed = folder / "stderr.txt", folder / "stdout.txt"
    with errors.open("wb") as error_file, printed.open("wb") as output_file:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=error_file,
            env=environment,
            start_new_session=True,
        )
        try:
            child.wait(execution.limit_s)
        except subprocess.TimeoutExpired:
            raise MeasurementRefused(f"the program did not end within {execution.limit_s:g} s and was killed") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if child.returncode != 0:
        tail = " ".join(errors.read_text(errors="replace").strip().splitlines()[-3:])
        died = f"was killed by signal {-child.returncode}" if child.returncode < 0 else f"ended with {child.returncode}"
        raise MeasurementRefused(f"the program {died}: {tail[:_SHOWN] or 'it printed no error'}")
    if (size := printed.stat().st_size) > MOST_OUTPUT:
        raise MeasurementRefused(f"expected at most {MOST_OUTPUT:,} bytes from the program, got {size:,}")
    return printed.read_text(errors="replace")


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise MeasurementRefused(f"{name}: expected a positive number, got {str(value)[:_SHOWN]!r}")
    return float(value)


def _placement(record: Any) -> Placement:
    """``{"provider": NAME, "nodes": {NAME: COUNT}, "fallback": [OPERATOR]}``; ``ms`` by provider may be beside them."""
    problem = MeasurementRefused(
        'placement: expected {"provider": "DLA", "nodes": {"DLA": 12, "GPU": 1}, "fallback": ["Resize"]}, got '
        f"{json.dumps(record)[:_SHOWN]}"
    )
    if not isinstance(record, dict) or not set(record) <= {"provider", "nodes", "ms", "fallback"}:
        raise problem
    provider, fallback = record.get("provider"), record.get("fallback", [])
    if not isinstance(provider, str) or not isinstance(fallback, list) or not all(isinstance(o, str) for o in fallback):
        raise problem
    nodes, ms = record.get("nodes", {}), record.get("ms", {})
    for amounts in (nodes, ms):
        if not isinstance(amounts, dict) or not all(_is_amount(value) for value in amounts.values()):
            raise problem
    other_providers = [name for name, count in nodes.items() if name != provider and count]
    if other_providers and not fallback:
        raise MeasurementRefused(
            f"placement: nodes ran on {other_providers[0]}: expected their operators under fallback"
        )
    counts: Mapping[str, int] = {name: int(count) for name, count in nodes.items()}
    return Placement(provider, counts, {n: float(v) for n, v in ms.items()}, tuple(sorted(set(fallback))))


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _program(execution: Execution) -> Path:
    if not execution.program:
        raise MeasurementRefused(
            "this device is measured by a program, which only the machine of its agent has: nas-agent --command PROGRAM"
        )
    path = Path(execution.program[0])
    if not path.is_file() or not os.access(path, os.X_OK):
        raise MeasurementRefused(f"expected an executable file as the program, got {execution.program[0]!r}")
    return path


COMMAND = ProgramRuntime(
    name="command",
    summary="A program of yours that gets a model file and prints its latency, on the machine of an agent.",
    requirement="onnx",
    identify=identify,
    time=time_program,
)

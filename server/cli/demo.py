"""``nas demo``: the whole way once, as a newcomer would go it, ending by itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.markup import escape

from nas.client import Client, Unreachable
from nas.core import registry
from nas.core.errors import HwnasError, StorageError
from nas.core.ports import Dataset
from nas.core.spec import BudgetSpec, DeviceSpec, ExportSpec, SearchSpec, StrategySpec
from nas.schemas.candidates import CandidateSchema
from nas.schemas.searches import SearchSchema
from server.cli import choose_artifacts, progress, render

START_S = 90.0
# Runs a script in an interpreter that cannot import torch or anything of this project.
_ALONE = """
import runpy, sys
for name in ("torch", "nas", "search_spaces", "predictors", "server", "workers"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class DemoFailed(HwnasError):
    """A step of the demo did not end well."""

    code = "demo_failed"


def run_demo(home: Path | None, port: int, *, quick: bool) -> dict[str, Any]:
    """Serves, adds this machine, searches on digits, pulls a model and runs it without us. Progress on standard error.

    ``quick`` shrinks every budget; for trying the way, not the result. Raises DemoFailed with what went wrong, and
    StorageError for a folder that cannot be written.
    """
    begun = time.monotonic()
    console = progress.progress_console()
    say = partial(console.print, soft_wrap=True)
    home = (home or Path(tempfile.mkdtemp(prefix="hwnas-demo-"))).resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {home} as home: {error.strerror}") from error
    signal.signal(signal.SIGTERM, _leave)  # the service has to be stopped then, too
    wall: dict[str, float] = {}
    with _service(home, port) as url, Client(url) as nas:
        wall["serve"] = time.monotonic() - begun
        say(f"[bold]hwnas is running at {url}[/], everything is kept in {escape(str(home))}")

        at = time.monotonic()
        say("\nThis machine becomes a device: measuring subnets, learning a latency predictor")
        device_spec = DeviceSpec(samples=32 if quick else 96)
        nas.add_device(device_spec)
        device = progress.follow_device(nas, device_spec.name)
        if device.status != "succeeded":
            raise DemoFailed(f"adding this machine as a device ended as {device.status}: {device.error}")
        wall["device"] = time.monotonic() - at
        card = device.predictors[0]
        say(render.card(card))

        say("\nSearching on digits: once-for-all, this machine, accuracy against latency")
        search = nas.submit(_search_spec(quick))
        search = progress.follow_search(nas, search.id)
        if search.status != "succeeded":
            raise DemoFailed(f"the search ended as {search.status}: {search.error}")
        wall |= {stage.name: stage.seconds for stage in search.stages}
        front = nas.front(search.id)
        say(render.front(front))

        at = time.monotonic()
        [artifact] = choose_artifacts(nas, search.id, "best")
        path = nas.download(artifact, home / "models" / artifact.name)
        accuracy = _run_alone(path, home / "models" / artifact.arch, _dataset(search))
        wall["pull"] = time.monotonic() - at
        say(f"\npulled {escape(str(path))}\nrun by onnxruntime and numpy alone: {accuracy:.2f} % on the test images")
    wall["total"] = time.monotonic() - begun
    again = shlex.join(["nas", "serve", "--home", str(home), "--port", url.rpartition(":")[2]])
    say(f"\nThe service has stopped. To look around, start it again:\n    {escape(again)}")
    say(f"and open {url}/searches/{search.id}")
    return {
        "search_id": search.id,
        "front": [_member(p) for p in front.points],
        "hypervolume": front.hypervolume,
        "baseline": {"hypervolume": front.baseline_hypervolume, "front": [_member(p) for p in front.baseline]},
        "export": {
            "path": str(path),
            "max_abs_err": artifact.report["max_abs_err"],
            "accuracy_torch": artifact.report["accuracy_torch"],
            "accuracy_onnx": accuracy,
        },
        "predictor": {"n": card.n, "mape": card.mape, "spearman": card.spearman, "coverage": card.coverage},
        "wall_s": {k: round(v, 2) for k, v in wall.items()},
    }


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _search_spec(quick: bool) -> SearchSpec:
    if not quick:
        return SearchSpec(name="digits demo")
    return SearchSpec(
        name="digits demo, quick",
        strategy=StrategySpec(params={"epochs": 6}),
        budget=BudgetSpec(evaluations=16, verified=6),
        export=ExportSpec(count=2, int8=False),
    )


@contextmanager
def _service(home: Path, port: int) -> Iterator[str]:
    """A server of our own as a child process, stopped at the end. Raises DemoFailed when it does not come up."""
    log = home / "serve.log"
    command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", str(port)]
    own = {k: v for k, v in os.environ.items() if not k.startswith("HWNAS_")}  # never somebody's real database
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=own)
        try:
            yield _wait_until_ready(child, log)
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        url = next((w for line in text.splitlines() if "is ready" in line for w in line.split() if "://" in w), None)
        if url is not None:
            try:
                with Client(url, timeout_s=5.0) as nas:
                    nas.health()
                return url
            except Unreachable:
                pass
        if child.poll() is not None:
            break
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DemoFailed(f"the service did not start; the end of {log}:\n{tail}")


def _dataset(search: SearchSchema) -> Dataset:
    dataset: Dataset = registry.load("nas.datasets", search.spec.data.name)(search.spec.data, search.spec.data.seed)
    return dataset


def _run_alone(archive: Path, folder: Path, data: Dataset) -> float:
    """Accuracy in % over the test images, by the runner inside the zip, in a process without torch or hwnas."""
    with zipfile.ZipFile(archive) as unpacked:
        unpacked.extractall(folder)
    images = folder / "test_images.npy"
    np.save(images, data.test.images_NCHW.transpose(0, 2, 3, 1))
    logits = folder / "test_logits.npy"
    command = [sys.executable, "-I", "-c", _ALONE, str(folder / "run.py"), str(images), "--logits", str(logits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise DemoFailed(f"the pulled model does not run: {done.stderr.strip()[-500:]}")
    return float((np.load(logits).argmax(axis=1) == data.test.labels_N).mean() * 100.0)


def _member(point: CandidateSchema) -> dict[str, Any]:
    names = ("test_accuracy", "predicted_ms", "upper_ms", "measured_ms", "params", "macs")
    values = {n: point.metrics[n].value if n in point.metrics else None for n in names}
    return {"arch": point.arch, **values, "status": point.status}

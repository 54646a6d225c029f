"""``nas demo``: the whole product once, as a new user would use it; it ends by itself."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from nas.client import Client
from nas.core import registry
from nas.core.errors import Conflict, HwnasError
from nas.core.ports import Dataset
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ExportSpec, SearchSpec, StrategySpec
from nas.schemas.candidates import CandidateSchema, FrontSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.predictors import PredictorCardSchema
from nas.schemas.searches import SearchSchema
from server.cli import progress, render
from server.cli.child_service import RunningService, service_of
from server.cli.downloads import choose_artifacts
from server.cli.runtime import read_settings
from server.settings import Settings

# Runs a script in an interpreter that cannot import torch or anything of this project.
_ISOLATED_RUN = """
import runpy, sys
for name in ("torch", "nas", "search_spaces", "predictors", "server", "workers"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_STATUSES = {
    "verified": "measured here, and within the bound that was promised",
    "unverified": "measured here, and too close to the promised bound to call",
    "violated": "measured here, and slower than promised",
    "fallback": "measured here, and run in part by another provider than the device's",
}
_STAGES = """\
  train    one supernet, which holds the weights of every network of the space
  explore  networks in it: those of the search, and as many random ones
  verify   the best of both: measured on this machine
  export   the front of the search: ONNX models that run without hwnas"""
_STEPS = 4
Say = Callable[..., None]


class DemoFailed(HwnasError):
    """A step of the demo did not end well."""

    code = "demo_failed"


class MemberResult(BaseModel):
    """A network of a front. ``low_ms`` to ``high_ms``: the 95 % interval of its measurement."""

    arch: str
    test_accuracy: float | None
    predicted_ms: float | None
    upper_ms: float | None
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    params: float | None
    macs: float | None
    status: str


class BaselineResult(BaseModel):
    """The front of random search at the same budget."""

    hypervolume: float | None
    front: list[MemberResult]


class PulledModelResult(BaseModel):
    """The downloaded model: largest difference to the torch network, accuracies in % on the test images."""

    path: str
    max_abs_err: float
    accuracy_torch: float
    accuracy_onnx: float


class PredictorResult(BaseModel):
    """How good the latency predictor is, on networks that it was not fitted to."""

    n: int
    mape: float | None
    spearman: float | None
    coverage: float | None


class NoiseResult(BaseModel):
    """How steady the machine is: ``floor`` in %, ``levels`` of speed as times relative to the undisturbed one, and how
    many networks could not be measured while the device was added (``refused``)."""

    floor: float
    levels: list[float]
    refused: int


class DemoResult(BaseModel):
    """What ``nas demo --json`` prints. ``wall_s``: seconds by step and stage."""

    search_id: str
    front: list[MemberResult]
    hypervolume: float | None
    baseline: BaselineResult
    export: PulledModelResult
    predictor: PredictorResult
    noise: NoiseResult | None
    wall_s: dict[str, float]


@dataclass
class DemoProgress:
    """How far the demo is, for the message after an interruption."""

    step: str = "starting"
    service: RunningService | None = None
    search_id: str | None = None


def run_demo(home: Path | None, port: int | None, *, quick: bool) -> DemoResult:
    """Serve, add this machine, search on digits, pull a model and run it without hwnas. Progress on standard error.

    ``home`` and ``port`` are those of ``nas serve`` unless given; a service that runs on this home already is used, and
    so is a demo's search that was interrupted. ``quick`` shrinks every budget, to try the steps rather than the result.

    Raises DemoFailed with what went wrong, and the errors of ``service_of`` before anything is started. After SIGINT,
    SIGTERM or SIGHUP the service is stopped, what is left is printed, and SystemExit raised.
    """
    screen = progress.progress_console()
    options = {"home": home, "port": port}
    settings = read_settings({k: v for k, v in options.items() if v is not None})
    settings = settings.model_copy(update={"home": settings.home.expanduser().absolute()})
    is_new = not (settings.home / "hwnas.db").exists()
    reached = DemoProgress()
    for number in (signal.SIGTERM, signal.SIGHUP):  # the service has to be stopped then, too
        signal.signal(number, _leave)
    try:
        return _run(settings, reached, screen, port_given=port is not None, quick=quick)
    except (KeyboardInterrupt, SystemExit) as stop:
        screen.print(interruption(reached, settings.home, is_new=is_new), soft_wrap=True)
        status = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
        raise SystemExit(status) from None


def _run(settings: Settings, reached: DemoProgress, screen: Console, *, port_given: bool, quick: bool) -> DemoResult:
    say = screen.print
    start = time.monotonic()
    wall_s: dict[str, float] = {}
    say("[bold]hwnas demo[/]: networks for handwritten digits, accurate and fast on this machine")
    say(f"Everything is kept in {escape(str(settings.home))}.", soft_wrap=True)
    say("Ctrl-C stops it; the same command then goes on where it stopped.")

    _step(reached, say, 1, "Start the service")
    with service_of(settings, screen, port_given=port_given) as service, _client(service) as nas:
        reached.service = service
        wall_s["serve"] = time.monotonic() - start
        if service.started_here:
            say(f"Ready after {wall_s['serve']:.0f} s. A browser shows all that follows: {service.url}")
        else:
            say(f"A service runs on this home already, at {service.url}: it is used, and left running.")

        at = time.monotonic()
        spec = _search_spec(quick)
        search = _interrupted_search(nas, spec)
        device_spec = DeviceSpec(samples=32 if quick else 96)
        _step(reached, say, 2, "Make this machine a device")
        say(f"{device_spec.samples} networks are measured; from them a predictor learns the latency of all others.")
        if search is None:
            say(render.card(_newest_card(_onboard(nas, device_spec, say))))
        else:
            say(f"Done before: the interrupted search {search.id} has what it needs.")
        wall_s["device"] = time.monotonic() - at

        _step(reached, say, 3, "Search")
        say(_STAGES)
        if search is None:
            _say_if_busy(nas, say)
            search = nas.submit(spec)
        else:
            say(f"Search {search.id} goes on where it was interrupted.")
        reached.search_id = search.id
        search = progress.follow_search(nas, search.id)
        if search.status != "succeeded":
            raise DemoFailed(f"the search ended as {search.status}: {search.error}")
        wall_s |= {stage.name: stage.seconds for stage in search.stages}
        front = nas.front(search.id)
        say(render.front(front))
        for line in status_lines(front):
            say(line)

        at = time.monotonic()
        _step(reached, say, 4, "Download the most accurate network and run it without hwnas")
        [artifact] = choose_artifacts(nas, search.id, "best").artifacts
        path = nas.download(artifact, settings.home / "models" / artifact.name)
        accuracy = _run_isolated(path, path.with_suffix(""), _dataset(search))
        card = _card_of(nas, search)
        wall_s["pull"] = time.monotonic() - at
        say(escape(str(path)), soft_wrap=True)
        say(f"{accuracy:.2f} % of the test images are right, with onnxruntime and NumPy alone.")
    wall_s["total"] = time.monotonic() - start
    minutes, seconds = divmod(round(wall_s["total"]), 60)
    say(f"\n[bold]Done after {minutes} min {seconds:02d} s.[/]")
    say(ending(service, settings, search.id), soft_wrap=True)
    return DemoResult(
        search_id=search.id,
        front=[_member(p) for p in front.members],
        hypervolume=front.hypervolume,
        baseline=BaselineResult(hypervolume=front.baseline_hypervolume, front=[_member(p) for p in front.baseline]),
        export=PulledModelResult(
            path=str(path),
            max_abs_err=artifact.report["max_abs_err"],
            accuracy_torch=artifact.report["accuracy_torch"],
            accuracy_onnx=accuracy,
        ),
        predictor=PredictorResult(n=card.n, mape=card.mape, spearman=card.spearman, coverage=card.coverage),
        noise=None
        if card.noise is None
        else NoiseResult(floor=100 * card.noise.floor, levels=card.noise.levels, refused=card.noise.refused),
        wall_s={k: round(v, 2) for k, v in wall_s.items()},
    )


def status_lines(front: FrontSchema) -> list[str]:
    """How many networks of the front have each status, and what it means."""
    counts: Counter[str] = Counter(p.status for p in front.members)
    return [f"{counts[status]} {status}: {meaning}" for status, meaning in _STATUSES.items() if counts[status]]


def ending(service: RunningService, settings: Settings, search_id: str) -> str:
    """Where the search can be seen: at once, or after one command."""
    page = f"{service.url}/searches/{search_id}"
    usual = read_settings({})
    if not service.started_here:
        return f"The search in the dashboard:\n    {escape(page)}"
    words = [nas_command(), "serve"]
    if settings.home != usual.home.expanduser().absolute():
        words += ["--home", str(settings.home)]
    port = service.url.rpartition(":")[2]
    if port != str(usual.port):
        words += ["--port", port]
    return (
        "The service has stopped. To see the search in the dashboard, start it again:\n"
        f"    {escape(shlex.join(words))}\nand open {escape(page)}"
    )


def interruption(reached: DemoProgress, home: Path, *, is_new: bool) -> str:
    """What an interrupted demo leaves where, how it goes on, and how that is deleted. ``is_new``: by this demo."""
    again = shlex.join([nas_command(), *sys.argv[1:]])
    lines = [f"\n[bold]Interrupted[/] ({escape(reached.step)})."]
    if reached.service is not None and not reached.service.started_here:
        lines.append(f"The service at {reached.service.url} was there before, and goes on with what was asked.")
    elif home.exists():
        lines.append(f"The service has stopped. All that is done so far is kept in {escape(str(home))}.")
    else:
        lines.append("Nothing was started or written.")
        return "\n".join(lines)
    lines.append(f"To go on from there:\n    {escape(again)}")
    if is_new:
        lines.append(f"To delete everything:\n    {escape(shlex.join(['rm', '-r', str(home)]))}")
    elif reached.search_id is not None:
        nas = nas_command()
        lines.append(
            f"To delete this search, while the service runs:\n"
            f"    {escape(nas)} cancel {reached.search_id} && {escape(nas)} delete {reached.search_id}"
        )
    return "\n".join(lines)


def nas_command() -> str:
    """How a shell in the current folder calls this ``nas``: by its name if that finds it, else by its path."""
    script = Path(sys.executable).parent / "nas"
    on_path = shutil.which("nas")
    if on_path is not None and Path(on_path).absolute() == script.absolute():
        return "nas"
    folder = Path.cwd()
    return str(script.relative_to(folder) if script.is_relative_to(folder) else script)


def _step(reached: DemoProgress, say: Say, number: int, title: str) -> None:
    reached.step = f"in step {number} of {_STEPS}, {title.partition(':')[0]}"
    say(f"\n[bold]{number}/{_STEPS}  {title}[/]")


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _client(service: RunningService) -> Client:
    """Of a service that was there before, as the holder of ``HWNAS_TOKEN``; our own asks for none."""
    return Client(service.url, token=None if service.started_here else os.environ.get("HWNAS_TOKEN") or None)


def _search_spec(quick: bool) -> SearchSpec:
    if not quick:
        return SearchSpec(name="digits demo")
    return SearchSpec(
        name="digits demo, quick",
        data=DataSpec(params={"max_train": 320, "max_val": 160, "max_test": 160}),
        strategy=StrategySpec(params={"epochs": 2}),
        budget=BudgetSpec(evaluations=8, verified=3),
        export=ExportSpec(count=1, int8=False),
    )


def _interrupted_search(nas: Client, spec: SearchSpec) -> SearchSchema | None:
    """The search of an earlier demo like this one that has not ended."""
    for status in ("running", "queued"):
        for search in nas.searches(status).items:
            if search.spec.name == spec.name:
                return search
    return None


def _onboard(nas: Client, spec: DeviceSpec, say: Say) -> DeviceSchema:
    """The device with its predictors. One that is being added already is waited for. Raises DemoFailed."""
    _say_if_busy(nas, say)
    try:
        nas.add_device(spec)
    except Conflict:
        if nas.device(spec.name).status not in ("queued", "running"):
            raise
        say("Measuring goes on where it was interrupted.")
    device = progress.follow_device(nas, spec.name)
    if device.status != "succeeded":
        raise DemoFailed(f"adding this machine as a device ended as {device.status}: {device.error}")
    return device


def _say_if_busy(nas: Client, say: Say) -> None:
    health = nas.health()
    if jobs := health.queued + health.running:
        say(f"The service has {jobs} other job(s) to do, which may come first.")


def _newest_card(device: DeviceSchema) -> PredictorCardSchema:
    return max(device.predictors, key=lambda card: card.created_at)


def _card_of(nas: Client, search: SearchSchema) -> PredictorCardSchema:
    """The card of the predictor that the search has used."""
    if search.predictor is None:
        raise DemoFailed(f"search {search.id} does not say which predictor it has used")
    return nas.predictor(search.predictor)


def _dataset(search: SearchSchema) -> Dataset:
    return registry.load_dataset(search.spec.data.name).load(search.spec.data, search.spec.data.seed)


def _run_isolated(archive: Path, folder: Path, data: Dataset) -> float:
    """Accuracy in % over the test images, by the runner inside the zip, in a process without torch or hwnas."""
    with zipfile.ZipFile(archive) as unpacked:
        unpacked.extractall(folder)
    images = folder / "test_images.npy"
    np.save(images, data.test.array_NCHW.transpose(0, 2, 3, 1))
    logits = folder / "test_logits.npy"
    command = [sys.executable, "-I", "-c", _ISOLATED_RUN, str(folder / "run.py"), str(images), "--logits", str(logits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise DemoFailed(f"the pulled model does not run: {done.stderr.strip()[-500:]}")
    return float((np.load(logits).argmax(axis=1) == data.test.labels).mean() * 100.0)


def _member(candidate: CandidateSchema) -> MemberResult:
    def value(name: str) -> float | None:
        return candidate.metrics[name].value if name in candidate.metrics else None

    measurement = candidate.measurement
    return MemberResult(
        arch=candidate.arch,
        test_accuracy=value("test_accuracy"),
        predicted_ms=value("predicted_ms"),
        upper_ms=value("upper_ms"),
        measured_ms=value("measured_ms"),
        low_ms=None if measurement is None else measurement.low_ms,
        high_ms=None if measurement is None else measurement.high_ms,
        params=value("params"),
        macs=value("macs"),
        status=candidate.status,
    )

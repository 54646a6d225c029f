"""The command line against a service in this process: what it asks, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from nas.client import Client
from nas.core.errors import Conflict, InvalidInput, StorageError
from nas.core.events import Progress, encode
from nas.core.metrics import METRICS
from nas.core.spec import BudgetSpec, DeviceSpec, FleetSpec, RetrainSpec, SearchSpec
from nas.schemas.candidates import CandidatePage, FrontSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.searches import SearchSchema
from server.api.validate import add_device_command
from server.cli import options, progress, render
from server.cli.app import COMMANDS, app
from server.cli.lazy import CommandEntry, load_command
from server.cli.scatter import scatter
from server.cli.serve import _url, listen, serve
from tests.support.fake_service import (
    BASELINE,
    END,
    EVENTS,
    FAILED,
    MEMBERS,
    ONBOARDING_VERBS,
    SEARCH,
    FakeService,
    event,
    frames,
    make_front,
)

BEST, MIDDLE, FASTEST = (arch for arch, _, _ in MEMBERS)
Run = Callable[..., Result]


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


@pytest.fixture
def run(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line against the fake service."""
    monkeypatch.setattr(options, "Client", partial(Client, transport=fake.transport, sleep=pytest.fail))
    for name in ("HWNAS_URL", "HWNAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Result:
        result = CliRunner().invoke(app, list(words))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


NOT_FOR_HELP = (
    *("numpy", "scipy", "pydantic", "httpx", "yaml", "torch", "ray", "sqlalchemy", "nicegui", "fastapi", "uvicorn"),
    *("onnxruntime", "sklearn", "nas.client", "nas.core.spec", "server.settings", "server.cli.render"),
)
NOT_BEFORE_LISTENING = ("torch", "ray", "sqlalchemy", "nicegui", "fastapi", "onnxruntime", "uvicorn", "sklearn")


@pytest.mark.parametrize(
    ("script", "modules"),
    [
        ("from server.cli import main; sys.argv = ['nas', '--help']", NOT_FOR_HELP),
        # A port in use is reported before anything heavy is imported.
        ("import server.cli.serve; main = lambda: print('devices')", NOT_BEFORE_LISTENING),
    ],
    ids=["help", "serve"],
)
def test_help_and_serve_import_no_heavy_modules(script: str, modules: tuple[str, ...]) -> None:
    script = (
        f"import sys; {script}\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        f"print('imported:', [m for m in {modules!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "devices" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_listed_help_equals_the_command_help(entry: CommandEntry) -> None:
    command = load_command(entry)
    assert command.help.replace("\n", " ").split("  ")[0] == entry.help
    assert not command.hidden


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show", SEARCH),
        ("front", SEARCH),
        ("devices", "list"),
        ("devices", "show", "this-machine"),
        ("devices", "versions"),
        ("devices", "drift"),
        ("devices", "compare", "this-machine", "board"),
        ("predictors",),
        ("agents",),
        ("candidates", SEARCH),
        ("onboardings", "list"),
        ("onboardings", "cancel", "0b0a4d"),
        ("onboardings", "priority", "0b0a4d", "3"),
        ("devices", "rename", "this-machine", "desk"),
        ("spaces",),
        ("strategies",),
        ("version",),
        ("watch", SEARCH),
        ("submit", "--dry-run"),
        ("submit", "--watch"),
        ("cancel", SEARCH),
        ("extend", SEARCH, "--watch"),
        ("devices", "add", "--watch"),
        ("devices", "add", "--no-watch"),
    ],
    ids=" ".join,
)
def test_json_is_the_only_output(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict | list)


def test_json_equals_the_schema(run: Run) -> None:
    assert SearchSchema.model_validate_json(run("show", SEARCH, "--json").stdout).id == SEARCH
    assert FrontSchema.model_validate_json(run("front", SEARCH, "--json").stdout) == make_front()


def test_list_commands(run: Run, fake: FakeService) -> None:
    listed = run("list", "--status", "failed", "--limit", "7").stdout
    assert dict(fake.last.url.params) == {"status": "failed", "limit": "7"}
    assert SEARCH in listed
    assert run("list", "--limit", "7").stderr == "There is more; the next page: nas list --limit 7 --cursor more\n"
    run("list", "--cursor", "more")
    assert fake.last.url.params["cursor"] == "more"
    assert "digits [small]" in listed  # brackets of names are no markup
    assert "mobilenet_v3" in run("spaces").stdout
    assert "epochs = 9" in run("strategies").stdout
    assert "a [fast] processor" in run("devices", "list").stdout
    cards = run("predictors", "--device", "this-machine").stdout
    assert dict(fake.last.url.params) == {"device": "this-machine"}
    assert "2.25" in cards
    assert "96.0%" in cards
    assert run("version").stdout.startswith("hwnas ")


@pytest.mark.parametrize("width", [80, 100])
def test_list_never_folds_names_of_devices(fake: FakeService, width: int) -> None:
    spec = SearchSpec(name="a search with a long name for people to read", device="jetson-orin-nano-15w")
    fleet = SearchSpec(fleet=FleetSpec(devices=("jetson-orin-nano-15w", "pi", "server")))
    for one, device in ((spec, "jetson-orin-nano-15w"), (fleet, "jetson-orin-nano-15w +2")):
        search = fake.search.model_copy(update={"spec": one, "id": "0123456789ab"})
        screen = Console(file=io.StringIO(), width=width)
        screen.print(render.searches([search]))
        drawn = screen.file.getvalue()  # type: ignore[attr-defined]
        assert any("0123456789ab" in line and device in line for line in drawn.splitlines()), drawn


def test_candidates_are_filtered_ordered_and_paged(run: Run, fake: FakeService) -> None:
    done = run("candidates", SEARCH, "--status", "verified", "--order=predicted_ms", "--limit", "2")
    assert dict(fake.last.url.params) == {"status": "verified", "order": "predicted_ms", "limit": "2"}
    assert all(arch in done.stdout for arch, _, _ in MEMBERS)
    assert done.stderr == ""
    page = CandidatePage(items=make_front().members, total=9, next="more")
    fake.answers = {f"GET /v1/searches/{SEARCH}/candidates": httpx.Response(200, content=page.model_dump_json())}
    done = run("candidates", SEARCH, "--status", "verified", "--limit", "2")
    words = f"nas candidates {SEARCH} --status verified --order=-val_accuracy --limit 2 --cursor more"
    assert done.stderr == f"There is more; the next page: {words}\n"


def test_events_are_records_and_logs_are_sentences(run: Run) -> None:
    records = [json.loads(line) for line in run("events", SEARCH).stdout.splitlines()]
    assert [r["seq"] for r in records] == [e.seq for e in EVENTS]
    kinds = {r["body"]["kind"] for r in records}
    [kind, *_] = kinds
    chosen = run("events", SEARCH, "--kind", kind).stdout.splitlines()
    assert {json.loads(line)["body"]["kind"] for line in chosen} == {kind}
    followed = run("events", SEARCH, "--follow").stdout.splitlines()
    assert len(followed) == len(EVENTS)
    logs = run("logs", SEARCH).stdout
    assert "2030-01-02 03:04:05  " in logs
    assert "train: started (1 of" in logs


def test_onboardings_are_controlled(run: Run, fake: FakeService) -> None:
    listed = run("onboardings", "list", "--device", "this-machine", "--limit", "1")
    assert "0b0a4d" in listed.stdout
    assert listed.stderr.endswith("nas onboardings list --device this-machine --limit 1 --cursor more\n")
    for verb, status in ONBOARDING_VERBS.items():
        assert run("onboardings", verb, "0b0a4d").stdout == f"onboarding 0b0a4d of this-machine: {status}\n"
    assert run("onboardings", "priority", "0b0a4d", "3").stdout == "onboarding 0b0a4d: priority 3\n"
    assert fake.body() == {"priority": 3}
    assert run("onboardings", "delete", "0b0a4d", "--yes").stdout == "onboarding 0b0a4d: deleted\n"
    assert run("devices", "rename", "this-machine", "desk").stdout == "device this-machine: now desk\n"
    assert fake.body() == {"name": "desk"}
    assert run("devices", "delete", "this-machine", "--yes").stdout == "device this-machine: deleted\n"
    assert fake.last.method == "DELETE"


def test_agents_are_listed(run: Run) -> None:
    listed = run("agents").stdout
    assert "board" in listed
    assert "away" in listed


def test_failed_search_shows_its_error(run: Run) -> None:
    shown = run("show", FAILED)
    assert shown.exit_code == 0
    assert "the data set is [empty]" in shown.stdout


def test_front_headers_name_the_kind_of_evidence(run: Run) -> None:
    lines = [line.rstrip() for line in run("front", SEARCH).stdout.splitlines()]
    assert lines[0] == "Pareto front"
    assert lines[1].split() == ["test", "acc.", "latency", "95%", "bound", "latency", "params", "MACs"]
    kinds = lines[3].split()
    assert kinds == [
        "network",
        "measured",
        *["predicted"] * 2,
        "measured",
        "exact",
        "exact",
        "status",
    ]
    for arch, accuracy, ms in MEMBERS:
        [row] = [line for line in lines if line.startswith(arch)]
        numbers = [f"{accuracy:.2f}", f"{0.98 * ms:.4f}", f"{1.1 * ms:.4f}", f"{ms:.4f}"]
        assert row.split() == [arch, *numbers, "40", "k", "1.2", "M", "verified"]
    assert "0.8100" in lines[-1]
    assert "0.7500" in lines[-1]


def test_early_front_shows_no_measurement(run: Run, fake: FakeService) -> None:
    early = make_front()
    for p in early.members:
        p.status = "unverified"
        del p.metrics["measured_ms"], p.metrics["test_accuracy"]
    for axis, metric in zip(early.objectives, ("val_accuracy", "predicted_ms"), strict=True):
        axis.metric, axis.kind = metric, METRICS[metric].kind
    early.final, early.baseline = False, []
    fake.answers = {f"GET /v1/searches/{SEARCH}/front": httpx.Response(200, json=early.model_dump(mode="json"))}
    shown = run("front", SEARCH).stdout
    assert "nothing measured yet" in shown
    assert "estimated" in shown
    assert "unverified" in shown
    assert "measured" not in shown.replace("nothing measured yet", "")


@pytest.mark.parametrize("scale", [1.0, 1234.5])
def test_front_fits_into_eighty_columns(scale: float) -> None:
    found = make_front()
    for p in found.members:
        p.status = "unverified"
        for metric in p.metrics.values():
            metric.value *= 1.0 if metric.unit == "%" else scale
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render.front(found))
    text = console.export_text()
    assert "…" not in text
    for arch, _, _ in MEMBERS:
        assert any(line.startswith(arch) and line.endswith("unverified") for line in map(str.rstrip, text.splitlines()))


def test_front_sends_axes_bound_and_device(run: Run, fake: FakeService) -> None:
    run("front", SEARCH, "--bound-ms", "0.2", "--objectives", "accuracy, macs", "--device", "board")
    assert dict(fake.last.url.params) == {"bound_ms": "0.2", "objectives": "accuracy,macs", "device": "board"}


def test_scatter_positions() -> None:
    lines = scatter(make_front(), width=41, height=11).splitlines()
    assert "Test accuracy (measured, %)" in lines[0]
    rows = [line.partition("|")[2].ljust(41) for line in lines[1:12]]
    ranges = [*MEMBERS, *BASELINE]
    (left, right), (low, high) = [(min(v), max(v)) for v in zip(*[m[1:][::-1] for m in ranges], strict=True)]
    placed = {}
    for mark, members in (("x", BASELINE), ("o", MEMBERS)):
        for _, accuracy, ms in members:
            placed[round((high - accuracy) / (high - low) * 10), round((ms - left) / (right - left) * 40)] = mark
    assert {(r, c): m for r, row in enumerate(rows) for c, m in enumerate(row) if m != " "} == placed
    assert rows[0][40] == "o"  # the most accurate network is also the slowest
    assert lines[1].startswith("98.50 |")
    assert lines[11].startswith("88.00 |")
    assert "Measured latency (measured, ms)" in lines[-1]


def test_scatter_of_one_point_is_empty() -> None:
    alone = make_front().model_copy(update={"members": make_front().members[:1], "baseline": []})
    assert scatter(alone) == ""
    assert scatter(alone.model_copy(update={"members": []})) == ""


# Submitting


def test_submit_without_file_searches_digits(run: Run, fake: FakeService) -> None:
    assert run("submit").exit_code == 0
    assert SearchSpec.model_validate(fake.body()) == SearchSpec(name="digits")


def test_options_override_the_file(run: Run, fake: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "seed": 3, "budget": {"verified": 5}}))
    words = ("--seed", "4", "--bound-ms", "0.2", "--evaluations", "16", "--device", "board", "--supernet", SEARCH)
    done = run("submit", str(path), *words, "--key", "once")
    assert done.exit_code == 0, done.stderr
    spec = SearchSpec.model_validate(fake.body())
    assert spec.name == "mine"
    assert (spec.seed, spec.device, spec.supernet) == (4, "board", SEARCH)
    assert spec.bound("latency") == 0.2
    assert spec.budget == BudgetSpec(evaluations=16, verified=5)
    assert fake.last.headers["idempotency-key"] == "once"


def test_retrain_option(run: Run, fake: FakeService, tmp_path: Path) -> None:
    assert run("submit", "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(fake.body()).retrain == RetrainSpec(epochs=30)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"budget": {"verified": 5}, "retrain": {"trials": 9, "networks": 4}}))
    assert run("submit", str(path), "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(fake.body()).retrain == RetrainSpec(epochs=30, trials=9, networks=4)
    path.write_text(yaml.safe_dump({"budget": {"verified": 5}}))
    assert run("submit", str(path), "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(fake.body()).retrain == RetrainSpec(epochs=30, networks=5)


def test_bound_without_latency_objective_is_rejected(run: Run, fake: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"objectives": [{"name": "accuracy"}, {"name": "macs"}]}))
    done = run("submit", str(path), "--bound-ms", "0.2")
    assert done.exit_code == 2
    assert "latency among the objectives" in done.stderr
    assert not fake.requests


def test_dry_run_prints_a_report_and_submits_nothing(run: Run, fake: FakeService) -> None:
    done = run("submit", "--dry-run", "--bound-ms", "0.2")
    assert done.exit_code == 0
    assert "feasible" in done.stdout
    assert "0.05 ms" in done.stdout
    assert [r.url.params.get("dry_run") for r in fake.requests] == ["true"]
    lines = done.stdout.splitlines()
    assert any("6 steps timed on node-a" in line for line in lines)
    train = next(line for line in lines if line.startswith("train"))
    assert all(part in train for part in ("1 min 36 s", "1 min 7 s", "2 min 34 s", "720 steps", "741 MB"))
    assert next(line for line in lines if line.startswith("novel")).split()[1:4] == ["?", "?", "?"]
    assert "novel: cannot say [yet]" in lines
    assert next(line for line in lines if line.startswith("total")).split()[1:3] == ["1", "min"]
    assert "not every stage could be timed" in done.stdout
    assert max(map(len, lines)) <= 80
    fake.feasible = False
    done = run("submit", "--dry-run")
    assert done.exit_code == 2
    assert "no network meets the bound [0.01 ms]" in done.stdout


def test_dry_run_without_cost_prints_the_reason(run: Run, fake: FakeService) -> None:
    done = run("submit", "--dry-run", "--no-measure", "--wait", "5")
    assert fake.last.url.params["measure"] == "false"
    assert fake.last.url.params["wait_s"] == "5"
    assert "how long it takes is not known: it was not requested" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nme: x", "unknown key 'nme'"),
        ("seed: many", "seed"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "neither YAML nor JSON"),
    ],
)
def test_invalid_file_prints_one_line(run: Run, fake: FakeService, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    done = run("submit", str(tmp_path / "spec.yaml"))
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.startswith("nas: ")
    assert not done.stdout
    assert not fake.requests


def test_missing_file_prints_one_line(run: Run) -> None:
    done = run("submit", "nowhere.yaml")
    assert done.exit_code == 2
    assert done.stderr == "nas: cannot read nowhere.yaml: No such file or directory\n"


# Watching


def test_watch_prints_stages_on_standard_error(run: Run) -> None:
    done = run("watch", SEARCH)
    assert done.exit_code == 0, done.stderr
    for line in ("train: started (1 of 2)", "train: finished after 12.5 s", "export: finished after 1.5 s"):
        assert line in done.stderr
        assert line not in done.stdout
    assert "the machine is [busy]" in done.stderr
    assert BEST in done.stdout  # and then the front


def test_watch_starts_at_the_last_event(run: Run, fake: FakeService) -> None:
    fake.search = fake.search.model_copy(update={"last_event": 4})
    done = run("watch", SEARCH)
    assert "export: finished" in done.stderr
    assert "train: started" not in done.stderr
    [stream] = [r for r in fake.requests if r.url.path.endswith("/events")]
    assert stream.headers["last-event-id"] == "4"


def test_progress_bars_show_values(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=120, record=True, color_system=None)
    monkeypatch.setattr(progress, "progress_console", lambda: console)
    fake.streams = [([*frames([event(2, **_progress(3))]), END], None)]
    running = fake.search.model_copy(
        update={"stages": [s.model_copy(update={"status": "waiting"}) for s in fake.search.stages]}
    )
    with Client(transport=fake.transport) as nas:
        progress.follow(running, nas.watch(SEARCH))
    shown = console.export_text()
    assert "3/9 steps" in shown
    assert "loss 0.5" in shown
    assert "depth" in shown
    assert "export" in shown


def _progress(done: int) -> dict[str, Any]:
    return encode(Progress("train", done, 9, "steps", {"loss": 0.5}, "depth"))


@pytest.mark.parametrize("words", [("watch", FAILED), ("watch", FAILED, "--json")], ids=" ".join)
def test_watch_of_a_failed_search_exits_with_1(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.exit_code == 1
    assert "the data set is [empty]" in done.stdout


def test_interrupt_stops_watching_without_cancelling(run: Run, fake: FakeService) -> None:
    fake.streams = [(frames([event(1, "stage_started", stage="train", position=0, total=2)]), _Interrupt())]
    done = run("watch", SEARCH)
    assert done.exit_code == 130
    assert f"nas watch {SEARCH}" in done.stderr
    assert not any(r.url.path.endswith("/cancel") for r in fake.requests)


class _Interrupt(KeyboardInterrupt, Exception):  # type: ignore[misc]
    """Ctrl-C while the stream is read."""


# What comes out, and what goes on


def test_pull_downloads_the_most_accurate_candidate(run: Run, fake: FakeService, tmp_path: Path) -> None:
    done = run("pull", SEARCH, "--to", str(tmp_path / "models"))
    path = tmp_path / "models" / f"{BEST}.zip"
    assert done.stdout.strip() == str(path)  # one line, whatever its length
    assert path.read_bytes() == fake.files[path.name]


@pytest.mark.parametrize(
    ("which", "archs"), [("best", [BEST]), ("fastest", [FASTEST]), (MIDDLE, [MIDDLE]), ("all", [BEST, MIDDLE, FASTEST])]
)
def test_pull_by_name(run: Run, tmp_path: Path, which: str, archs: list[str]) -> None:
    done = run("pull", SEARCH, which, "--to", str(tmp_path), "--json")
    assert json.loads(done.stdout) == [str(tmp_path / f"{a}.zip") for a in archs]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{a}.zip" for a in archs)


def test_pull_of_unknown_candidate_lists_exported_ones(run: Run, tmp_path: Path) -> None:
    done = run("pull", SEARCH, "f" * 12, "--to", str(tmp_path))
    assert done.exit_code == 2
    assert BEST in done.stderr
    assert not list(tmp_path.iterdir())


def test_damaged_download_exits_with_1(run: Run, fake: FakeService, tmp_path: Path) -> None:
    served = fake.files[f"{BEST}.zip"]
    answer = httpx.Response(200, content=served[:-1])
    fake.answers = {f"GET /v1/searches/{SEARCH}/artifacts/{BEST}/{BEST}.zip": answer}
    done = run("pull", SEARCH, "--to", str(tmp_path))
    assert done.exit_code == 1
    assert "damaged" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../outside.zip", "/outside.zip", "a\\b.zip", "..", ""])
def test_file_name_cannot_leave_the_folder(run: Run, fake: FakeService, tmp_path: Path, name: str) -> None:
    with Client(transport=fake.transport) as nas:
        listed = [a.model_copy(update={"name": name}).model_dump(mode="json") for a in nas.artifacts(SEARCH)]
    fake.answers = {f"GET /v1/searches/{SEARCH}/artifacts": httpx.Response(200, json=listed)}
    (tmp_path / "to").mkdir()
    done = run("pull", SEARCH, BEST, "--to", str(tmp_path / "to"))
    assert done.exit_code == 1
    assert "plain file name" in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["to"]


def test_extend_sends_its_options(run: Run, fake: FakeService) -> None:
    done = run("extend", SEARCH, "--evaluations", "32", "--bound-ms", "0.1", "--device", "board")
    assert fake.body() == {"evaluations": 32, "bounds": {"latency": 0.1}, "device": "board"}
    assert "nas watch c41d" in done.stdout


def test_cancel(run: Run, fake: FakeService) -> None:
    assert "cancelled" in run("cancel", SEARCH).stdout
    assert fake.last.url.path == f"/v1/searches/{SEARCH}/cancel"


# Devices


def test_devices_add_defaults_to_the_digits_space(run: Run, fake: FakeService) -> None:
    done = run("devices", "add", "this-machine")
    assert done.exit_code == 0, done.stderr
    [sent] = [r for r in fake.requests if r.method == "POST"]
    assert DeviceSpec.model_validate_json(sent.content) == DeviceSpec()
    assert "train: started" in done.stderr
    for figure in ("2.25 %", "0.9910", "96.0%", "a [fast] processor"):
        assert figure in done.stdout


def test_devices_versions_drift_and_compare(run: Run, fake: FakeService) -> None:
    versions = run("devices", "versions").stdout
    assert "1 (in use)" in versions
    assert f"search {SEARCH}" in versions
    assert "not used: it is [worse]" in versions
    drifting = run("devices", "drift", "this-machine").stdout
    assert "20 % longer" in drifting
    assert "1.200" in drifting
    both = run("devices", "compare", "this-machine", "board").stdout
    assert dict(fake.last.url.params) == {"other": "board"}
    assert "3.00 times as long" in both
    assert "a [fast] one" in both


def test_devices_add_for_another_space(run: Run, fake: FakeService) -> None:
    words = ["--param", "preset=cifar", "--param", "widths=[1, 2]", "--data", "npz", "--data-path", "/data/x.npz"]
    done = run(
        "devices", "add", "board", *words, "--data-param", "classes=3", "--samples", "48", "--no-watch", "--json"
    )
    spec = DeviceSchema.model_validate_json(done.stdout).spec
    assert spec.space.model_dump() == {"name": "mobilenet_v3", "params": {"preset": "cifar", "widths": [1, 2]}}
    assert (spec.data.name, spec.data.path, spec.data.params) == ("npz", "/data/x.npz", {"classes": 3})
    assert (spec.name, spec.samples) == ("board", 48)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"space": {"name": "mobilenet_v3", "params": {}}},
        {"space": {"name": "mobilenet_v3", "params": {"preset": "cifar", "depths": [1, 2], "name": "3"}}},
        {"data": {"name": "npz", "path": "/a b/x.npz", "params": {"classes": 3, "key": "x y"}}},
    ],
)
def test_suggested_add_device_command_is_valid(run: Run, fake: FakeService, spec: dict[str, Any]) -> None:
    search = SearchSpec.model_validate({**spec, "device": "board"})
    program, *words = shlex.split(add_device_command(search))
    assert program == "nas"
    assert run(*words, "--no-watch").exit_code == 0
    sent = DeviceSpec.model_validate(fake.body())
    assert (sent.name, sent.space, sent.data) == ("board", search.space, search.data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--param", "preset"), "expected key=value, got 'preset'"),
        (("--param", "=digits"), "expected key=value"),
        (("--param", "preset=["), "for preset"),
        (("--samples", "1"), "samples"),
    ],
)
def test_invalid_device_options_are_rejected(run: Run, fake: FakeService, words: tuple[str, ...], said: str) -> None:
    done = run("devices", "add", "board", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not fake.requests


def test_failed_onboarding_exits_with_1(run: Run, fake: FakeService) -> None:
    fake.device = fake.device.model_copy(update={"status": "failed", "error": "too unsteady"})
    done = run("devices", "add", "this-machine")
    assert done.exit_code == 1
    assert "too unsteady" in done.stdout


# Errors and addresses


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "not_found", 2),
        (422, "infeasible_bound", 2),
        (409, "conflict", 2),
        (507, "storage", 1),
        (500, "error", 1),
    ],
)
def test_error_prints_one_line(run: Run, fake: FakeService, status: int, code: str, exit_code: int) -> None:
    fake.problems = {f"GET /v1/searches/{SEARCH}": (status, code, "expected [this], got that")}
    for words in (("show", SEARCH), ("show", SEARCH, "--json"), ("watch", SEARCH)):
        done = run(*words)
        assert done.exit_code == exit_code
        assert done.stderr == "nas: expected [this], got that\n"
        assert not done.stdout


def test_unreachable_server_prints_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = CliRunner().invoke(app, ["list", "--url", url])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"nas: no server answers at {url}")
    assert "nas serve" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after", "environment", "expected"),
    [
        ((), (), None, "http://127.0.0.1:8765"),
        ((), (), "http://env:1", "http://env:1"),
        (("--url", "http://first:2"), (), "http://env:1", "http://first:2"),
        (("--url", "http://first:2"), ("--url", "http://second:3"), "http://env:1", "http://second:3"),
    ],
)
@pytest.mark.parametrize("words", [("list",), ("devices", "list")], ids=" ".join)
def test_url_option_and_environment(
    run: Run,
    fake: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[str, ...],
    after: tuple[str, ...],
    environment: str | None,
    expected: str,
    words: tuple[str, ...],
) -> None:
    if environment is not None:
        monkeypatch.setenv("HWNAS_URL", environment)
    assert run(*before, *words, *after).exit_code == 0
    assert str(fake.last.url).startswith(expected + "/")


@pytest.mark.parametrize("words", [("lst",), ("front",), ("list", "--status", "odd"), ("submit", "--bound-ms", "0")])
def test_usage_error_exits_with_2(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


# Serving


def test_port_in_use_is_reported_before_startup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("server.cli.serve._run", lambda *_: pytest.fail("something was started"))
    monkeypatch.setattr("server.cli.serve.exit_on_signals", lambda: None)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "--port", str(port), "--home", str(tmp_path / "home")])
        with pytest.raises(Conflict):
            listen("127.0.0.1", port)
    assert done.exit_code == 2
    assert done.stderr == (
        f"nas: cannot listen on 127.0.0.1:{port}: port {port} is in use. "
        "Choose another with --port PORT, or --port 0 for a free one\n"
    )
    assert not (tmp_path / "home").exists()


def test_invalid_settings_and_home_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("server.cli.serve._run", lambda *_: pytest.fail("something was started"))
    monkeypatch.setattr("server.cli.serve.exit_on_signals", lambda: None)
    with pytest.raises(InvalidInput, match="port"):
        serve({"port": 70_000})
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="as home"):
        serve({"port": 0, "home": tmp_path / "file"})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("example", "http://example:80"),
    ],
)
def test_local_url_of_bound_address(host: str, url: str) -> None:
    assert _url(host, 80) == url

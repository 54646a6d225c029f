"""The command line against a service in this process: what it asks, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import shlex
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from nas.client import Client
from nas.core.access import LOCAL
from nas.core.errors import Conflict, InvalidInput, StorageError
from nas.core.events import Evaluated, StageFinished
from nas.core.provenance import Provenance
from nas.core.retraining import RetrainSpec, TeacherSpec
from nas.core.spec import (
    UNTRAINED_BUDGET,
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    FleetSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
    read_spec,
)
from nas.core.spoken_names import spoken_name
from nas.engine import stage_names
from nas.schemas.candidates import FrontSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.searches import SearchSchema
from nas.strategies.once_for_all import OnceForAllParams
from server.api.validate import add_device_command
from server.cli import naming, options, progress, render
from server.cli.app import COMMANDS, app
from server.cli.commands import decisions
from server.cli.lazy import CommandEntry, load_command
from server.cli.scatter import scatter
from server.cli.serve import _url, listen, serve
from tests.support import seeding
from tests.support.seeded_service import (
    BASELINE,
    MEMBERS,
    SHORT_LOG,
    SPACE,
    STAGE_SECONDS,
    SeededService,
    StreamCut,
    seeded_service,
)
from tests.support.seeding import REFERENCE, candidate, networks

BEST, MIDDLE, FASTEST = (arch for arch, _, _ in MEMBERS)
SEARCH, FAILED, LIVE, ONBOARDING = "{search}", "{failed}", "{live}", "{onboarding}"  # ``run`` replaces them by ids
Run = Callable[..., Result]


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeededService]:
    with seeded_service(tmp_path_factory.mktemp("service")) as service:
        service.transport.before_stream = service.work
        yield service


@pytest.fixture
def run(service: SeededService, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line against the seeded service, whose worker runs what is queued once its log is followed."""
    monkeypatch.setattr(options, "Client", partial(Client, transport=service.transport, sleep=pytest.fail))
    for name in ("HWNAS_URL", "HWNAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    ids = {SEARCH: service.search, FAILED: service.failed}

    def call(*words: str) -> Result:
        if LIVE in words:
            ids[LIVE] = service.start_search().lease.job_id
        if ONBOARDING in words:
            ids[ONBOARDING] = seeding.submit_device(service.store, DeviceSpec())
        result = CliRunner().invoke(app, [ids.get(word, word) for word in words])
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
        ("onboardings", "cancel", ONBOARDING),
        ("onboardings", "priority", ONBOARDING, "3"),
        ("devices", "rename", "board", "desk"),
        ("spaces",),
        ("strategies",),
        ("tasks",),
        ("version",),
        ("watch", SEARCH),
        ("submit", "--dry-run"),
        ("submit", "--watch"),
        ("cancel", LIVE),
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


def test_json_equals_the_schema(run: Run, service: SeededService) -> None:
    assert SearchSchema.model_validate_json(run("show", SEARCH, "--json").stdout).id == service.search
    assert FrontSchema.model_validate_json(run("front", SEARCH, "--json").stdout) == service.front


def test_list_commands(run: Run, service: SeededService) -> None:
    listed = run("list", "--status", "succeeded", "--limit", "7").stdout
    assert dict(service.last.url.params) == {"status": "succeeded", "limit": "7"}
    assert service.search in listed
    hint, cursor = run("list", "--limit", "2").stderr.rsplit(" ", 1)
    assert hint == "There is more; the next page: nas list --limit 2 --cursor"
    run("list", "--cursor", cursor.strip())
    assert service.last.url.params["cursor"] == cursor.strip()
    assert "digits [small]" in listed  # brackets of names are no markup
    assert "mobilenet_v3" in run("spaces").stdout
    assert f"epochs = {OnceForAllParams().epochs}" in run("strategies").stdout
    assert "output_error" in run("tasks").stdout
    assert "a [fast] processor" in run("devices", "list").stdout
    cards = run("predictors", "--device", "this-machine").stdout
    assert dict(service.last.url.params) == {"device": "this-machine"}
    assert "2.25" in cards
    assert "96.0%" in cards
    assert run("version").stdout.startswith("hwnas ")


@pytest.mark.parametrize("width", [80, 100])
def test_list_never_folds_names_of_devices(service: SeededService, width: int) -> None:
    spec = SearchSpec(name="a search with a long name for people to read", device="jetson-orin-nano-15w")
    fleet = SearchSpec(fleet=FleetSpec(devices=("jetson-orin-nano-15w", "pi", "server")))
    for one, device in ((spec, "jetson-orin-nano-15w"), (fleet, "jetson-orin-nano-15w +2")):
        search = service.view(service.search).model_copy(update={"spec": one, "id": "0123456789ab"})
        screen = Console(file=io.StringIO(), width=width)
        screen.print(render.searches([search]))
        text = screen.file.getvalue()  # type: ignore[attr-defined]
        assert any("0123456789ab" in line and device in line for line in text.splitlines()), text


def test_candidates_are_filtered_ordered_and_paged(run: Run, service: SeededService) -> None:
    done = run("candidates", SEARCH, "--status", "verified", "--order=predicted_ms", "--limit", "9")
    assert dict(service.last.url.params) == {"status": "verified", "order": "predicted_ms", "limit": "9"}
    assert all(arch in done.stdout for arch, _, _ in MEMBERS)
    assert done.stderr == ""
    hint, _cursor = run("candidates", SEARCH, "--status", "verified", "--limit", "2").stderr.rsplit(" ", 1)
    words = f"nas candidates {service.search} --status verified --limit 2 --cursor"
    assert hint == f"There is more; the next page: {words}"


def test_events_are_records_and_logs_are_sentences(run: Run, service: SeededService) -> None:
    events = service.events(service.search)
    records = [json.loads(line) for line in run("events", SEARCH).stdout.splitlines()]
    assert [r["seq"] for r in records] == [e.seq for e in events]
    kind = records[0]["body"]["kind"]
    of_kind = run("events", SEARCH, "--kind", kind).stdout.splitlines()
    assert {json.loads(line)["body"]["kind"] for line in of_kind} == {kind}
    followed = run("events", SEARCH, "--follow").stdout.splitlines()
    assert len(followed) == len(events)
    logs = run("logs", SEARCH).stdout
    assert f"{events[0].at:%Y-%m-%d %H:%M:%S}  " in logs
    assert "train: started (1 of" in logs


def test_onboardings_are_controlled(run: Run, service: SeededService) -> None:
    job_id = seeding.submit_device(service.store, DeviceSpec())
    listed = run("onboardings", "list", "--device", "this-machine", "--limit", "1")
    assert job_id in listed.stdout
    assert "nas onboardings list --device this-machine --limit 1 --cursor " in listed.stderr
    for verb, status in (
        ("pause", "paused"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
        ("retry", "queued"),
        ("cancel", "cancelled"),
    ):
        assert run("onboardings", verb, job_id).stdout == f"onboarding {job_id} of this-machine: {status}\n"
        if status == "queued":
            assert run("onboardings", "priority", job_id, "3").stdout == f"onboarding {job_id}: priority 3\n"
            assert service.body() == {"priority": 3}
    assert run("onboardings", "delete", job_id, "--yes").stdout == f"onboarding {job_id}: deleted\n"
    assert run("devices", "rename", "board", "desk").stdout == "device board: now desk\n"
    assert service.body() == {"name": "desk"}
    assert run("devices", "delete", "desk", "--yes").stdout == "device desk: deleted\n"
    assert service.last.method == "DELETE"


def test_agents_are_listed(run: Run, service: SeededService) -> None:
    profile = replace(seeding.PROFILE, name="pi", source="agent")
    service.store.measurements.register("pi", "instance-1", profile, {"onnxruntime": "1.31"}, LOCAL)
    service.clock.pass_(3600.0)
    listed = run("agents").stdout
    assert "pi" in listed
    assert "away" in listed


def test_failed_search_shows_its_error(run: Run) -> None:
    done = run("show", FAILED)
    assert done.exit_code == 0
    assert "the data set is [empty]" in done.stdout


def test_front_headers_name_the_kind_of_evidence(run: Run, service: SeededService) -> None:
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
    assert f"{service.front.hypervolume:.4f}" in lines[-1]
    assert f"{service.front.baseline_hypervolume:.4f}" in lines[-1]


def test_early_front_shows_no_measurement(run: Run, service: SeededService) -> None:
    points = (candidate(arch, val_accuracy=90.0, predicted_ms=0.2, upper_ms=0.22) for arch in networks(SPACE, 3))
    early = service.start_search(StageFinished("estimate", 0.5, {"reference": REFERENCE}), Evaluated(tuple(points)))
    front = run("front", early.lease.job_id).stdout
    assert "nothing measured yet" in front
    assert "estimated" in front
    assert "unverified" in front
    assert "measured" not in front.replace("nothing measured yet", "")


@pytest.mark.parametrize("scale", [1.0, 1234.5])
def test_front_fits_into_eighty_columns(service: SeededService, scale: float) -> None:
    front = service.front
    for p in front.members:
        p.status = "unverified"
        for metric in p.metrics.values():
            metric.value *= 1.0 if metric.unit == "%" else scale
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render.front(front))
    text = console.export_text()
    assert "…" not in text
    for arch, _, _ in MEMBERS:
        assert any(line.startswith(arch) and line.endswith("unverified") for line in map(str.rstrip, text.splitlines()))


def test_front_sends_axes_bound_and_device(run: Run, service: SeededService) -> None:
    run("front", SEARCH, "--bound-ms", "0.2", "--objectives", "accuracy, macs", "--device", "board")
    assert dict(service.last.url.params) == {"bound_ms": "0.2", "objectives": "accuracy,macs", "device": "board"}


def test_scatter_positions(service: SeededService) -> None:
    lines = scatter(service.front, width=41, height=11).splitlines()
    assert "Test accuracy (measured, %)" in lines[0]
    rows = [line.partition("|")[2].ljust(41) for line in lines[1:12]]
    ranges = [*MEMBERS, *BASELINE]
    (least_ms, most_ms), (low, high) = [(min(v), max(v)) for v in zip(*[m[1:][::-1] for m in ranges], strict=True)]
    placed = {}
    for mark, members in (("x", BASELINE), ("o", MEMBERS)):
        for _, accuracy, ms in members:
            placed[round((high - accuracy) / (high - low) * 10), round((ms - least_ms) / (most_ms - least_ms) * 40)] = (
                mark
            )
    assert {(r, c): m for r, row in enumerate(rows) for c, m in enumerate(row) if m != " "} == placed
    assert rows[0][40] == "o"  # the most accurate network is also the slowest
    assert lines[1].startswith("98.50 |")
    assert lines[11].startswith("88.00 |")
    assert "Measured latency (measured, ms)" in lines[-1]


def test_scatter_of_one_point_is_empty(service: SeededService) -> None:
    front = service.front.model_copy(update={"members": service.front.members[:1], "baseline": []})
    assert scatter(front) == ""
    assert scatter(front.model_copy(update={"members": []})) == ""


# Submitting


def test_submit_without_file_searches_digits(run: Run, service: SeededService) -> None:
    assert run("submit").exit_code == 0
    assert SearchSpec.model_validate(service.body()) == SearchSpec(name="digits")


def test_options_override_the_file(run: Run, service: SeededService, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "seed": 3, "budget": {"verified": 5}}))
    words = ("--seed", "4", "--bound-ms", "0.2", "--evaluations", "16", "--device", "board", "--supernet", SEARCH)
    done = run("submit", str(path), *words, "--key", "once")
    assert done.exit_code == 0, done.stderr
    spec = SearchSpec.model_validate(service.body())
    assert spec.name == "mine"
    assert (spec.seed, spec.device, spec.supernet) == (4, "board", service.search)
    assert spec.bound("latency") == 0.2
    assert spec.budget == BudgetSpec(evaluations=16, verified=5)
    assert service.last.headers["idempotency-key"] == "once"


def test_a_model_is_made_faster_on_the_data_that_it_was_judged_on(
    run: Run, service: SeededService, tmp_path: Path
) -> None:
    (tmp_path / "judged.pt2").write_bytes(b"anything")
    data_options = ("--data", "digits", "--data-param", "max_test=100", "--no-watch")
    added = run("models", "add", "judged", str(tmp_path / "judged.pt2"), *data_options)
    assert added.exit_code == 0, added.stderr
    run("submit", "--model", "judged")
    assert SearchSpec.model_validate(service.body()).data == DataSpec(params={"max_test": 100})
    for words in (("cancel", "judged"), ("delete", "judged", "--yes")):
        assert run("models", *words).exit_code == 0


def test_a_model_is_compressed_without_training_unless_networks_are_retrained(
    run: Run, service: SeededService, tmp_path: Path
) -> None:
    assert run("submit", "--model", "signs").exit_code == 2  # it is not stored
    spec = SearchSpec.model_validate(service.body())
    assert spec.space == SpaceSpec(name="own_model", model="signs", params={})
    assert spec.strategy == StrategySpec(name="compress", params={"preset": "no_training"})
    assert spec.budget == UNTRAINED_BUDGET
    assert (spec.name, spec.data) == ("signs, faster", DataSpec())
    run("submit", "--model", "signs", "--evaluations", "24")
    assert SearchSpec.model_validate(service.body()).budget == UNTRAINED_BUDGET.model_copy(update={"evaluations": 24})
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"budget": {"evaluations": 40}}))
    run("submit", str(path), "--model", "signs")
    assert SearchSpec.model_validate(service.body()).budget == BudgetSpec(evaluations=40)
    run("submit", "--model", "signs", "--retrain", "5")
    spec = SearchSpec.model_validate(service.body())
    assert (spec.strategy.params, spec.budget) == ({"preset": "best"}, BudgetSpec())


def test_retrain_option(run: Run, service: SeededService, tmp_path: Path) -> None:
    assert run("submit", "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(service.body()).retrain == RetrainSpec(epochs=30)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"budget": {"verified": 5}, "retrain": {"trials": 9, "networks": 4}}))
    assert run("submit", str(path), "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(service.body()).retrain == RetrainSpec(epochs=30, trials=9, networks=4)
    path.write_text(yaml.safe_dump({"budget": {"verified": 5}}))
    assert run("submit", str(path), "--retrain", "30").exit_code == 0
    assert SearchSpec.model_validate(service.body()).retrain == RetrainSpec(epochs=30, networks=5)


def test_teacher_options(run: Run, service: SeededService, tmp_path: Path) -> None:
    def retrained(*arguments: str) -> RetrainSpec | None:
        run("submit", *arguments)
        return SearchSpec.model_validate(service.body()).retrain

    inherited = ("--retrain", "30", "--retrain-start", "inherited")
    assert retrained(*inherited, "--teacher", "largest") == RetrainSpec(epochs=30, start="inherited", teacher="largest")
    model = TeacherSpec(search="3f2a", network="8d21")
    assert retrained("--retrain", "30", "--teacher", "3f2a/8d21") == RetrainSpec(epochs=30, teacher=model)
    assert "no search '3f2a'" in run("submit", "--retrain", "30", "--teacher", "3f2a/8d21").stderr
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"retrain": {"epochs": 9, "mixup": 0.2}}))
    assert retrained(str(path), "--teacher", "largest") == RetrainSpec(epochs=9, mixup=0.2, teacher="largest")
    service.requests.clear()
    retraining = ("--retrain", "3")
    for wrong in (("--teacher", "largest"), (*retraining, "--teacher", "3f2a/"), (*retraining, "--teacher", "x")):
        done = run("submit", *wrong)
        assert done.exit_code == 2
        assert "teacher" in done.stderr
    assert not service.requests


def test_bound_without_latency_objective_is_rejected(run: Run, service: SeededService, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"objectives": [{"name": "accuracy"}, {"name": "macs"}]}))
    done = run("submit", str(path), "--bound-ms", "0.2")
    assert done.exit_code == 2
    assert "latency among the objectives" in done.stderr
    assert not service.requests


def test_dry_run_prints_a_report_and_submits_nothing(run: Run, service: SeededService) -> None:
    done = run("submit", "--dry-run", "--bound-ms", "0.2")
    assert done.exit_code == 0
    assert "feasible" in done.stdout
    assert [r.url.params.get("dry_run") for r in service.requests] == ["true"]
    with service.client() as nas:
        lowest_ms = nas.dry_run(SearchSpec(), measure=False).lowest_reachable_ms
    assert f"{lowest_ms:.4g} ms" in done.stdout
    lines = done.stdout.splitlines()
    assert any("10 steps timed on node-a" in line for line in lines)
    train = next(line for line in lines if line.startswith("train"))
    assert all(part in train for part in ("1 min 36 s", "1 min 7 s", "2 min 34 s", "720 steps", "741 MB"))
    untimed = next(
        stage for stage, seconds in zip(stage_names(SearchSpec()), STAGE_SECONDS, strict=True) if seconds is None
    )
    assert next(line for line in lines if line.startswith(untimed)).split()[1:4] == ["?", "?", "?"]
    assert f"{untimed}: cannot say [yet]" in lines
    assert next(line for line in lines if line.startswith("total")).split()[1:3] == ["2", "min"]
    assert "not every stage could be timed" in done.stdout
    assert max(map(len, lines)) <= 80
    done = run("submit", "--dry-run", "--bound-ms", "0.01")
    assert done.exit_code == 2
    assert "meets the bound 0.01 ms" in done.stdout


def test_problems_of_a_dry_run_are_no_markup(service: SeededService) -> None:
    with service.client() as nas:
        dry_run = nas.dry_run(SearchSpec(), measure=False)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render.dry_run(dry_run.model_copy(update={"feasible": False, "problems": ["the bound [0.01 ms]"]})))
    assert "the bound [0.01 ms]" in console.export_text()


def test_dry_run_without_cost_prints_the_reason(run: Run, service: SeededService) -> None:
    done = run("submit", "--dry-run", "--no-measure", "--wait", "5")
    assert service.last.url.params["measure"] == "false"
    assert service.last.url.params["wait_s"] == "5"
    assert "how long it takes is not known: it was not requested" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nme: x", "unknown key 'nme'"),
        ("seed: many", "seed"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "neither YAML nor JSON"),
    ],
)
def test_invalid_file_prints_one_line(
    run: Run, service: SeededService, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    done = run("submit", str(tmp_path / "spec.yaml"))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("nas: ")
    assert not done.stdout
    assert not service.requests


def test_missing_file_prints_one_line(run: Run) -> None:
    done = run("submit", "nowhere.yaml")
    assert done.exit_code == 2
    assert done.stderr == "nas: cannot read nowhere.yaml: No such file or directory\n"


# Watching


def test_watch_prints_stages_on_standard_error(run: Run, service: SeededService) -> None:
    search = seeding.submit_search(service.store, SearchSpec(name="live"))
    service.transport.before_stream = partial(service.work, log=service.measured_log())
    done = run("watch", search)
    assert done.exit_code == 0, done.stderr
    for line in ("train: started (1 of 2)", "train: finished after 12.5 s", "export: finished after 1.5 s"):
        assert line in done.stderr
        assert line not in done.stdout
    assert "the machine is [busy]" in done.stderr
    assert BEST in done.stdout  # and then the front


def test_watch_starts_at_the_last_event(run: Run, service: SeededService) -> None:
    attempt = service.start_search(*SHORT_LOG[:4])
    search = attempt.lease.job_id
    last = service.view(search).last_event

    def end() -> None:
        attempt.append(*SHORT_LOG[4:])
        attempt.finish()

    service.transport.before_stream = end
    done = run("watch", search)
    assert "export: finished" in done.stderr
    assert "train: started" not in done.stderr
    [stream] = [r for r in service.requests if r.url.path.endswith("/events")]
    assert stream.headers["last-event-id"] == str(last)


def test_progress_bars_show_values(service: SeededService, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=120, record=True, color_system=None)
    monkeypatch.setattr(progress, "progress_console", lambda: console)
    service.transport.cuts = [StreamCut(4, error=None, end=True)]  # up to the progress of the training
    search = service.view(service.streamed)
    waiting = [s.model_copy(update={"status": "waiting"}) for s in search.stages]
    with service.client() as nas:
        known = search.model_copy(update={"status": "running", "eta_s": 95.0, "untimed_stages": ["export"]})
        progress.follow(known.model_copy(update={"stages": waiting}), nas.watch(service.streamed), lambda: known)
    text = console.export_text()
    assert "estimated: about 1 min 35 s left; not counted: export" in text
    assert "3/9 steps" in text
    assert "loss 0.5" in text
    assert "depth" in text
    assert "export" in text


@pytest.mark.long
@pytest.mark.parametrize("words", [("watch", FAILED), ("watch", FAILED, "--json")], ids=" ".join)
def test_watch_of_a_failed_search_exits_with_1(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.exit_code == 1
    assert "the data set is [empty]" in done.stdout


def test_interrupt_stops_watching_without_cancelling(run: Run, service: SeededService) -> None:
    service.transport.cuts = [StreamCut(1, error=_Interrupt())]
    done = run("watch", SEARCH)
    assert done.exit_code == 130
    assert f"nas watch {service.search}" in done.stderr
    assert not any(r.url.path.endswith("/cancel") for r in service.requests)


class _Interrupt(KeyboardInterrupt, Exception):  # type: ignore[misc]
    """Ctrl-C while the stream is read."""


# What comes out, and what goes on


def test_pull_downloads_the_most_accurate_candidate(run: Run, service: SeededService, tmp_path: Path) -> None:
    done = run("pull", SEARCH, "--to", str(tmp_path / "models"))
    path = tmp_path / "models" / f"{BEST}.zip"
    assert done.stdout.strip() == str(path)  # one line, whatever its length
    assert path.read_bytes() == f"the zip of {BEST}".encode()


@pytest.mark.parametrize(
    ("selection", "archs"),
    [("best", [BEST]), ("fastest", [FASTEST]), (MIDDLE, [MIDDLE]), ("all", [BEST, MIDDLE, FASTEST])],
)
def test_pull_by_name(run: Run, tmp_path: Path, selection: str, archs: list[str]) -> None:
    done = run("pull", SEARCH, selection, "--to", str(tmp_path), "--json")
    assert json.loads(done.stdout) == [str(tmp_path / f"{a}.zip") for a in archs]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{a}.zip" for a in archs)


def test_pull_of_unknown_candidate_lists_exported_ones(run: Run, tmp_path: Path) -> None:
    done = run("pull", SEARCH, "f" * 12, "--to", str(tmp_path))
    assert done.exit_code == 2
    assert BEST in done.stderr
    assert not list(tmp_path.iterdir())


def test_damaged_download_exits_with_1(run: Run, service: SeededService, tmp_path: Path) -> None:
    damaged = httpx.Response(200, content=b"the zip of anothe")
    service.answer(f"GET /v1/searches/{service.search}/artifacts/{BEST}/{BEST}.zip", damaged)
    done = run("pull", SEARCH, "--to", str(tmp_path))
    assert done.exit_code == 1
    assert "damaged" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../outside.zip", "/outside.zip", "a\\b.zip", "..", ""])
def test_file_name_cannot_leave_the_folder(run: Run, service: SeededService, tmp_path: Path, name: str) -> None:
    with service.client() as nas:
        listed = [a.model_copy(update={"name": name}).model_dump(mode="json") for a in nas.artifacts(service.search)]
    service.answer(f"GET /v1/searches/{service.search}/artifacts", httpx.Response(200, json=listed))
    (tmp_path / "to").mkdir()
    done = run("pull", SEARCH, BEST, "--to", str(tmp_path / "to"))
    assert done.exit_code == 1
    assert "plain file name" in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["to"]


def test_extend_sends_its_options(run: Run, service: SeededService) -> None:
    done = run("extend", SEARCH, "--evaluations", "32", "--bound-ms", "0.4", "--device", "board")
    assert service.body() == {"evaluations": 32, "bounds": {"latency": 0.4}, "device": "board"}
    [child] = service.store.queries.searches(None, 9, None, parent=service.search).items
    assert f"nas watch {child.id}" in done.stdout


def test_fork_trains_networks_of_the_front_in_another_size_of_their_space(run: Run, service: SeededService) -> None:
    done = run("fork", SEARCH, "--space-preset", "digits", "--retrain", "3")
    assert done.exit_code == 0, done.stderr
    body = service.body()
    assert body["space"] == {"name": "mobilenet_v3", "params": {"preset": "digits"}}
    assert body["retrain"]["epochs"] == 3
    [child] = service.store.queries.searches(None, 9, None, parent=service.search).items
    assert child.spec.strategy.name == "zero_cost"
    _, front = service.store.queries.front(service.search)
    of_front = [",".join(map(str, member.arch.genes)) for member in front.members]
    assert child.spec.strategy.params == {"networks": of_front}
    assert (child.spec.retrain and child.spec.retrain.epochs, child.spec.supernet) == (3, None)


def test_fork_says_what_another_size_needs(run: Run) -> None:
    refused = [
        run("fork", SEARCH, "--space-preset", "digits"),
        run("fork", SEARCH, "--space-preset", "digit", "--retrain", "3"),
        run("fork", SEARCH, "--space-preset", "cifar", "--retrain", "3"),
    ]
    assert all(done.exit_code == 2 for done in refused)
    without_training, unknown, other = (done.stderr for done in refused)
    assert "expected `retrain`" in without_training
    assert "'digits'" in unknown  # the nearest preset
    assert "a network of 31 genes is none of mobilenet_v3 with these parameters: expected 51 genes" in other


def test_cancel(run: Run, service: SeededService) -> None:
    assert "cancelled" in run("cancel", LIVE).stdout
    [cancelled] = service.store.queries.searches("cancelled", 9, None).items
    assert service.last.url.path == f"/v1/searches/{cancelled.id}/cancel"


# Devices


def test_devices_add_defaults_to_the_digits_space(run: Run, service: SeededService) -> None:
    done = run("devices", "add", "this-machine")
    assert done.exit_code == 0, done.stderr
    [sent] = [r for r in service.requests if r.method == "POST"]
    assert DeviceSpec.model_validate_json(sent.content) == DeviceSpec()
    assert "measure: started" in done.stderr
    for figure in ("2.25 %", "0.9910", "96.0%", "a [fast] processor"):
        assert figure in done.stdout


def test_devices_versions_drift_and_compare(run: Run, service: SeededService) -> None:
    versions = run("devices", "versions").stdout
    assert "1 (in use)" in versions
    assert f"search {service.slower}" in versions
    assert "not used: it is [worse]" in versions
    drifting = run("devices", "drift", "this-machine").stdout
    assert "20 % longer" in drifting
    assert "1.200" in drifting
    both = run("devices", "compare", "this-machine", "board").stdout
    assert dict(service.last.url.params) == {"other": "board"}
    assert "3.00 times as long" in both
    assert "a [fast] processor" in both


def test_devices_add_for_another_space(run: Run, service: SeededService) -> None:
    words = ["--param", "preset=cifar", "--param", "depths=[1, 2]", "--data-param", "val_fraction=0.3"]
    done = run("devices", "add", "board", *words, "--samples", "48", "--no-watch", "--json")
    spec = DeviceSchema.model_validate_json(done.stdout).spec
    assert spec.space.model_dump() == {
        "name": "mobilenet_v3",
        "model": None,
        "params": {"preset": "cifar", "depths": [1, 2]},
    }
    assert (spec.data.name, spec.data.params) == ("digits", {"val_fraction": 0.3})
    assert (spec.name, spec.samples) == ("board", 48)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"space": {"name": "mobilenet_v3", "params": {}}},
        {"space": {"name": "mobilenet_v3", "params": {"preset": "cifar", "depths": [1, 2], "name": "3"}}},
        {"data": {"name": "npz", "path": "/a b/x.npz", "params": {"classes": 3, "key": "x y"}}},
    ],
)
def test_suggested_add_device_command_is_valid(run: Run, service: SeededService, spec: dict[str, Any]) -> None:
    board = service.store.queries.device("board").model_dump(mode="json")
    service.answer("POST /v1/devices", httpx.Response(201, json=board))  # whatever the data and the space
    search = SearchSpec.model_validate({**spec, "device": "board"})
    program, *words = shlex.split(add_device_command(search))
    assert program == "nas"
    assert run(*words, "--no-watch").exit_code == 0
    sent = DeviceSpec.model_validate(service.body())
    assert (sent.name, sent.space, sent.data) == ("board", search.space, search.data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--param", "preset"), "expected key=value, got 'preset'"),
        (("--param", "=digits"), "expected key=value"),
        (("--param", "preset=["), "for preset"),
        (("--samples", "1"), "samples"),
    ],
)
def test_invalid_device_options_are_rejected(
    run: Run, service: SeededService, words: tuple[str, ...], message: str
) -> None:
    done = run("devices", "add", "board", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not service.requests


def test_failed_onboarding_exits_with_1(run: Run, service: SeededService) -> None:
    service.transport.before_stream = partial(service.work, "failed", "too unsteady")
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
def test_error_prints_one_line(run: Run, service: SeededService, status: int, code: str, exit_code: int) -> None:
    service.refuse(f"GET /v1/searches/{service.search}", status, code, "expected [this], got that")
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
        ((), (), "http://localhost:1", "http://localhost:1"),
        (("--url", "http://localhost:2"), (), "http://localhost:1", "http://localhost:2"),
        (("--url", "http://localhost:2"), ("--url", "http://localhost:3"), "http://localhost:1", "http://localhost:3"),
    ],
)
@pytest.mark.parametrize("words", [("list",), ("devices", "list")], ids=" ".join)
def test_url_option_and_environment(
    run: Run,
    service: SeededService,
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
    assert str(service.last.url).startswith(expected + "/")


@pytest.mark.parametrize("words", [("lst",), ("front",), ("list", "--status", "odd"), ("submit", "--bound-ms", "0")])
def test_usage_error_exits_with_2(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


# Serving


def test_port_in_use_is_reported_before_startup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("server.cli.serve._run", lambda *_: pytest.fail("something was started"))
    monkeypatch.setattr("server.cli.serve.exit_on_signals", lambda: None)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
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


# Names, decisions, and the way in


def test_help_groups_commands_and_names_the_version(run: Run) -> None:
    text = run("--help").stdout
    for heading in ("Searches", "Results", "Devices, data and models", "The service", "Access"):
        assert heading in text
    assert {entry.heading for entry in COMMANDS} == {
        *("Searches", "Results", "Devices, data and models", "The service", "Access")
    }
    assert run("--version").stdout == run("version").stdout


def test_a_misspelt_command_has_a_suggestion(run: Run) -> None:
    done = run("submitt")
    assert done.exit_code == 2
    assert "Did you mean 'submit'?" in done.stderr


def test_searches_are_meant_by_prefix_spoken_name_and_name(run: Run, service: SeededService) -> None:
    with service.client() as nas:
        search = nas.search(service.search)
    for text in (search.id[:7], search.spoken_name, search.spoken_name.upper()):
        assert json.loads(run("show", text, "--json").stdout)["id"] == search.id
    missing = run("show", "no-such-search")
    assert missing.exit_code == 2
    assert "no search 'no-such-search'" in missing.stderr


def test_a_text_that_means_several_searches_is_refused_with_them(service: SeededService) -> None:
    with service.client() as nas:
        ids = sorted(s.id for s in nas.searches(limit=100).items)
        assert len(ids) > 1
        with pytest.raises(InvalidInput, match="can mean several candidates"):
            naming.candidate_id("a", ["a1", "a2"])
        assert naming.search_id(nas, ids[0]) == ids[0]
        same_name = nas.search(ids[0]).name
        named = [s.id for s in nas.searches(limit=100).items if s.name == same_name]
        if len(named) > 1:
            with pytest.raises(InvalidInput, match="can mean several searches"):
                naming.search_id(nas, same_name)
        else:
            assert naming.search_id(nas, same_name) == ids[0]


def test_candidates_are_pulled_by_their_spoken_name_and_by_recommendation(
    run: Run, service: SeededService, tmp_path: Path
) -> None:
    done = run("pull", SEARCH, spoken_name(MIDDLE), "--to", str(tmp_path), "--json")
    assert json.loads(done.stdout) == [str(tmp_path / f"{MIDDLE}.zip")]
    answer = json.loads(run("recommend", SEARCH, "--json").stdout)
    done = run("pull", SEARCH, "recommended", "--to", str(tmp_path), "--json")
    assert json.loads(done.stdout) == [str(tmp_path / f"{answer['candidate']['arch']}.zip")]
    assert spoken_name(BEST) in run("recommend", SEARCH, "--rule", "best").stdout.splitlines()[0]
    refused = run("recommend", SEARCH, "--max-cost", "0.000001")
    assert refused.exit_code == 1
    assert "No member of the front has" in refused.stdout


def test_stars_and_notes(run: Run, service: SeededService) -> None:
    run("star", SEARCH, spoken_name(MIDDLE))
    assert "ships" in run("note", SEARCH, "it ships", "--candidate", MIDDLE[:6]).stdout
    run("note", SEARCH, "the good one")
    with service.client() as nas:
        marks = {mark.arch: (mark.starred, mark.note) for mark in nas.marks(service.search)}
    assert marks == {MIDDLE: (True, "it ships"), None: (False, "the good one")}
    run("star", SEARCH, MIDDLE, "--remove")
    with service.client() as nas:
        assert [mark.starred for mark in nas.marks(service.search)] == [False, False]


def test_init_writes_a_spec_that_can_be_submitted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert run("init", str(path)).exit_code == 0
    assert read_spec(SearchSpec, path) == SearchSpec()
    again = run("init", str(path))
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert run("init", str(path), "--force").exit_code == 0


def test_open_prints_the_page_of_a_search_device_or_list(
    run: Run, service: SeededService, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with service.client() as nas:
        name = nas.search(service.search).spoken_name
        device = nas.devices()[0].name
    run("open", name)
    run("open", device)
    run("open")
    base = opened[-1].removesuffix("/")
    assert opened == [f"{base}/searches/{service.search}", f"{base}/devices/{device}", f"{base}/"]
    assert run("open", "nothing").exit_code == 2


def test_a_refused_token_says_what_to_set_where(run: Run, service: SeededService) -> None:
    service.refuse("GET /v1/searches", 401, "unauthorised", "the token is unknown")
    done = run("list")
    assert done.exit_code == 1
    assert "the token is unknown. Set HWNAS_TOKEN" in done.stderr
    assert "nas tokens create" in done.stderr


def test_logs_in_words_are_the_same_over_rest(run: Run, service: SeededService) -> None:
    with service.client() as nas:
        page = nas.logs(service.search)
        assert [line.text for line in page.items] == [
            line.split("  ", 1)[1] for line in run("logs", SEARCH).stdout.splitlines()
        ]
        first = nas.logs(service.search, limit=2)
        second = nas.logs(service.search, after=first.last)
        assert [*first.items, *second.items] == page.items
        assert "error" in {line.level for line in nas.logs(service.failed).items}


def test_reproduce_runs_the_spec_again_and_reports(
    run: Run, service: SeededService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.client() as nas:
        spec = nas.search(service.search).spec
    before = {
        "format": "hwnas model package",
        "architecture": BEST,
        "versions": {"torch": "2"},
        "data": {"content_hash": "ab"},
        "device": None,
        "search": Provenance(service.search, spec, None).to_json(),
        "files": {"model.onnx": {"sha256": "cd"}},
        "metrics": {"params": {"value": 3.0, "unit": "", "kind": "exact"}},
    }
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(before))
    after = {**before, "metrics": {"params": {"value": 4.0, "unit": "", "kind": "exact"}}}
    monkeypatch.setattr(decisions, "_manifest", lambda _nas, _search, arch: after if arch == BEST else {})
    done = run("reproduce", str(path), "--json")
    assert done.exit_code == 1
    verdicts = {c["label"]: c["verdict"] for c in json.loads(done.stdout.splitlines()[-1])}
    assert verdicts["Parameters"] == "diverged"
    assert verdicts["model.onnx"] == "same"
    with service.client() as nas:
        [again] = [s for s in nas.searches(limit=100).items if s.name.endswith(", reproduced")]
    assert again.spec.model_copy(update={"name": spec.name}) == spec

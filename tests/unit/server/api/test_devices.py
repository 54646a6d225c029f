"""Devices have owners, and onboardings the verbs of searches."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nas.core.access import LOCAL, Principal, Scope
from nas.core.arch import Decision, Genes
from nas.core.device import DeviceProfile
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.spec import DeviceSpec
from nas.schemas.devices import DeviceSchema, OnboardingPage, OnboardingSchema
from server.agent_wheel import agent_wheel, wheel_name
from server.api.app import create_app
from server.api.device_check import MOST_SAMPLES
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes

Headers = dict[str, str]


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), clock) as opened:
        yield opened


@pytest.fixture
def api(store: Store, tmp_path: Path) -> TestClient:
    app = create_app(Settings(home=tmp_path, require_tokens=True), store)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def caller(store: Store, owner: str, *scopes: Scope) -> Headers:
    _, text = store.tokens.create(owner, "test", scopes or ("device", "submit"), None, LOCAL)
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def ada(store: Store) -> Headers:
    return caller(store, "ada")


@pytest.fixture
def bob(store: Store) -> Headers:
    return caller(store, "bob")


def spec(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = fakes.device_spec(**changes).model_dump(mode="json")
    return record


ROOFLINE: dict[str, Any] = {"source": "roofline", "roofline": {"flops_per_s": 1e9, "bytes_per_s": 1e9}}


def onboarded(api: TestClient, store: Store, headers: Headers, space_id: str = "tiny-0-10", **changes: Any) -> str:
    """Add a device and run its onboarding; the onboarding's id."""
    answer = api.post("/v1/devices", json=spec(**changes), headers=headers)
    assert answer.status_code == 201, answer.text
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes()), space_id))
    return str(answer.json()["id"])


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_device_of_another_owner_cannot_be_replaced(api: TestClient, store: Store, ada: Headers, bob: Headers) -> None:
    onboarded(api, store, ada)
    before = api.get("/v1/predictors?device=bench", headers=ada).json()
    for change in (ROOFLINE, {}, {"data": {"name": "blank", "seed": 1}}):
        answer = api.post("/v1/devices", json={**spec(), **change}, headers=bob)
        assert code(answer) == (403, "forbidden"), answer.text
        assert "'bench' belongs to ada" in answer.json()["message"]
    device = DeviceSchema.model_validate(api.get("/v1/devices/bench", headers=bob).json())
    assert (device.owner, device.status) == ("ada", "succeeded")
    assert api.get("/v1/predictors?device=bench", headers=ada).json() == before
    for method, path in (("DELETE", "/devices/bench"), ("PUT", "/devices/bench/name")):
        answer = api.request(method, f"/v1{path}", headers=bob, json={"name": "mine"} if method == "PUT" else None)
        assert code(answer) == (403, "forbidden"), path
    boss = caller(store, "root", "admin")
    assert api.post("/v1/devices", json=spec(), headers=boss).status_code == 201
    assert api.get("/v1/devices/bench", headers=ada).json()["owner"] == "ada"


def test_replaced_device_makes_a_version_and_tells_its_searches(
    api: TestClient, store: Store, ada: Headers, bob: Headers, clock: fakes.Clock
) -> None:
    onboarded(api, store, ada)
    clock.pass_(1)
    record = fakes.search_spec().model_dump(mode="json")
    running = api.post("/v1/searches", json=record, headers=bob).json()["id"]
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    waiting = api.post("/v1/searches", json={**record, "name": "later"}, headers=bob).json()["id"]
    store.jobs.pause(waiting)
    assert api.get(f"/v1/searches/{running}", headers=bob).json()["warnings"] == []
    clock.pass_(1)
    second = onboarded(api, store, ada)
    versions = api.get("/v1/devices/bench/versions", headers=bob).json()
    assert [(v["number"], v["in_use"]) for v in versions] == [(2, True), (1, False)]
    assert versions[0]["id"] == second
    [warning] = api.get(f"/v1/searches/{running}", headers=bob).json()["warnings"]
    assert "device bench was added again by ada" in warning
    assert "keeps version 1 of its predictor, and new searches use version 2" in warning
    [warning] = api.get(f"/v1/searches/{waiting}", headers=bob).json()["warnings"]
    assert "will use version 2" in warning
    clock.pass_(1)
    later = api.post("/v1/searches", json=record, headers=bob).json()["id"]
    assert api.get(f"/v1/searches/{later}", headers=bob).json()["warnings"] == []


def test_agent_of_another_owner_measures_for_its_owner_only(store: Store, api: TestClient, bob: Headers) -> None:
    profile = DeviceProfile("pi", "aarch64", "cpu", 4, "onnxruntime", "1.31", "linux", canary_ms=1.0, source="agent")
    store.measurements.register("pi", "i", profile, {}, Principal("ada", frozenset({"device"})))
    answer = api.post("/v1/devices", json=spec(name="pi", source="agent"), headers=bob)
    assert code(answer) == (403, "forbidden")
    assert api.get("/v1/devices", headers=bob).json() == []


def test_second_space_may_be_onboarded_while_the_first_runs(api: TestClient, store: Store, ada: Headers) -> None:
    first = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    answer = api.post("/v1/devices", json=spec(), headers=ada)
    assert code(answer) == (409, "conflict")
    assert first in answer.json()["message"]
    other = spec(data={"name": "blank", "seed": 1})
    second = api.post("/v1/devices", json=other, headers=ada)
    assert second.status_code == 201, second.text
    page = OnboardingPage.model_validate(api.get("/v1/onboardings?device=bench", headers=ada).json())
    assert {(o.id, o.status, o.device) for o in page.items} == {
        (first, "running", "bench"),
        (second.json()["id"], "queued", "bench"),
    }


def test_onboarding_has_the_verbs_of_a_search(api: TestClient, store: Store, ada: Headers, bob: Headers) -> None:
    onboarding = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]

    def act(verb: str, headers: Headers = ada) -> Any:
        return api.post(f"/v1/onboardings/{onboarding}/{verb}", headers=headers)

    for verb in ("pause", "cancel", "retry", "resume"):
        assert code(act(verb, bob)) == (403, "forbidden"), verb
    priority = {"priority": 7}
    answer = api.put(f"/v1/onboardings/{onboarding}/priority", json=priority, headers=bob)
    assert code(answer) == (403, "forbidden")
    assert code(api.delete(f"/v1/onboardings/{onboarding}", headers=bob)) == (403, "forbidden")

    assert api.put(f"/v1/onboardings/{onboarding}/priority", json=priority, headers=ada).json()["priority"] == 7
    assert act("pause").json()["status"] == "paused"
    assert store.jobs.claim("worker", 10.0) is None
    assert act("resume").json()["status"] == "queued"
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    assert act("pause").json()["status"] == "pausing"
    fakes.append(store, lease, fakes.device_log("0" * 64)[:2], 1e6)  # a durable result
    assert (
        OnboardingSchema.model_validate(api.get(f"/v1/onboardings/{onboarding}", headers=bob).json()).status == "paused"
    )
    assert act("resume").json()["status"] == "queued"
    assert act("cancel").json()["status"] == "cancelled"
    assert act("retry").json()["status"] == "queued"
    assert api.get(f"/v1/onboardings/{onboarding}/events", headers=bob).json()["items"][0]["body"]["kind"] == "status"
    assert code(api.delete(f"/v1/onboardings/{onboarding}", headers=ada)) == (409, "conflict")  # it has not ended
    act("cancel")
    assert api.delete(f"/v1/onboardings/{onboarding}", headers=ada).status_code == 204
    assert api.get("/v1/devices", headers=ada).json() == []  # it was the only onboarding of the device
    assert code(api.get(f"/v1/onboardings/{onboarding}", headers=ada)) == (404, "not_found")
    search = fakes.add_search(store)
    assert code(api.post(f"/v1/onboardings/{search}/cancel", headers=ada)) == (404, "not_found")


def test_failed_onboarding_of_a_device_with_predictors_is_deleted_alone(
    api: TestClient, store: Store, ada: Headers, clock: fakes.Clock
) -> None:
    first = onboarded(api, store, ada)
    clock.pass_(1)
    second = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]
    api.post(f"/v1/onboardings/{second}/cancel", headers=ada)
    answer = api.delete(f"/v1/onboardings/{first}", headers=ada)
    assert code(answer) == (409, "conflict")
    assert "made version 1 of a predictor" in answer.json()["message"]
    assert api.delete(f"/v1/onboardings/{second}", headers=ada).status_code == 204
    device = api.get("/v1/devices/bench", headers=ada).json()
    assert (device["id"], device["status"], len(device["predictors"])) == (first, "succeeded", 1)


def test_cancelled_onboarding_is_not_retried_beside_its_successor(api: TestClient, ada: Headers) -> None:
    first = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]
    api.post(f"/v1/onboardings/{first}/cancel", headers=ada)
    second = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]
    answer = api.post(f"/v1/onboardings/{first}/retry", headers=ada)
    assert code(answer) == (409, "conflict")
    assert second in answer.json()["message"]


def test_onboardings_are_paged(api: TestClient, store: Store, ada: Headers, clock: fakes.Clock) -> None:
    ids = []
    for name in ("a", "b", "c"):
        clock.pass_(1)
        ids.append(api.post("/v1/devices", json=spec(name=name), headers=ada).json()["id"])
    page = api.get("/v1/onboardings?limit=2", headers=ada).json()
    rest = api.get(f"/v1/onboardings?limit=2&cursor={page['next']}", headers=ada).json()
    assert [o["id"] for o in (*page["items"], *rest["items"])] == ids[::-1]
    assert rest["next"] is None
    assert api.get("/v1/onboardings?status=failed", headers=ada).json()["items"] == []


def test_deleted_device_leaves_finished_searches(api: TestClient, store: Store, ada: Headers, bob: Headers) -> None:
    onboarded(api, store, ada)
    search = api.post("/v1/searches", json=fakes.search_spec().model_dump(mode="json"), headers=bob).json()["id"]
    answer = api.delete("/v1/devices/bench", headers=ada)
    assert code(answer) == (409, "conflict")
    assert search in answer.json()["message"]
    fakes.run_log(store, fakes.search_log(store.blobs.put(b"abc")))
    front = api.get(f"/v1/searches/{search}/front", headers=bob).json()
    assert api.delete("/v1/devices/bench", headers=ada).status_code == 204
    assert code(api.get("/v1/devices/bench", headers=ada)) == (404, "not_found")
    assert api.get("/v1/predictors", headers=ada).json() == []
    assert api.get("/v1/onboardings", headers=ada).json()["items"] == []
    assert api.get(f"/v1/searches/{search}", headers=bob).json()["status"] == "succeeded"
    assert api.get(f"/v1/searches/{search}/front", headers=bob).json() == front
    answer = api.post(f"/v1/searches/{search}/extend", json={"evaluations": 16}, headers=bob)
    assert code(answer) == (422, "invalid_spec")
    onboarded(api, store, bob)  # the name is free again
    assert api.get("/v1/devices/bench", headers=ada).json()["owner"] == "bob"


def test_device_with_an_active_onboarding_is_not_deleted(api: TestClient, ada: Headers) -> None:
    onboarding = api.post("/v1/devices", json=spec(), headers=ada).json()["id"]
    for answer in (
        api.delete("/v1/devices/bench", headers=ada),
        api.put("/v1/devices/bench/name", json={"name": "b"}, headers=ada),
    ):
        assert code(answer) == (409, "conflict")
        assert onboarding in answer.json()["message"]


def test_renamed_device_keeps_its_predictors(api: TestClient, store: Store, ada: Headers) -> None:
    onboarding = onboarded(api, store, ada)
    answer = api.put("/v1/devices/bench/name", json={"name": "desk"}, headers=ada)
    assert answer.status_code == 200, answer.text
    device = DeviceSchema.model_validate(answer.json())
    assert (device.name, device.owner, device.id, device.spec.name) == ("desk", "ada", onboarding, "desk")
    assert [card.device for card in device.predictors] == ["desk"]
    assert code(api.get("/v1/devices/bench", headers=ada)) == (404, "not_found")
    record = fakes.search_spec(device="desk").model_dump(mode="json")
    assert api.post("/v1/searches", json=record, headers=ada).status_code == 201
    onboarded(api, store, caller(store, "bob"))
    assert code(api.put("/v1/devices/bench/name", json={"name": "x"}, headers=ada)) == (403, "forbidden")
    answer = api.put("/v1/devices/desk/name", json={"name": "bench"}, headers=ada)
    assert code(answer) == (409, "conflict")
    assert code(api.put("/v1/devices/bench/name", json={"name": "a b"}, headers=ada))[0] == 422


@pytest.mark.parametrize("samples", [MOST_SAMPLES + 1, 100_000])
def test_samples_have_a_limit(api: TestClient, ada: Headers, samples: int) -> None:
    answer = api.post("/v1/devices", json=spec(samples=samples), headers=ada)
    assert code(answer) == (422, "invalid_spec")
    assert "expected at most 2,000" in answer.json()["message"]
    assert DeviceSpec(samples=samples).samples == samples  # stored specs of before remain readable


class FiveNetworks(fakes.TinySpace):
    """The tiny space with a single decision."""

    def __init__(self, params: Mapping[str, Any], shape: ImageShape) -> None:
        super().__init__(params, shape)
        self.decisions = (Decision("d0", (1, 2, 3, 4, 5)),)

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG


def test_a_space_with_few_networks_is_refused_before_it_is_measured(
    api: TestClient, ada: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    five = SearchSpaceType("five", "For this test.", build=FiveNetworks)
    monkeypatch.setitem(fakes.PLUGINS["nas.search_spaces"], "five", five)
    answer = api.post("/v1/devices", json=spec(space={"name": "five", "params": {}}), headers=ada)
    assert code(answer) == (422, "invalid_spec")
    assert "at least 32 different networks to measure, got 5" in answer.json()["message"]


PI = DeviceProfile("pi", "aarch64", "cpu", 4, "onnxruntime", "1.31", "linux", canary_ms=1.0, source="agent")


def with_agent(api: TestClient, store: Store, headers: Headers) -> None:
    """Ada's device ``pi``, which its agent of the same name has measured."""
    store.measurements.register("pi", "i", PI, {}, Principal("ada", frozenset({"device"})))
    answer = api.post("/v1/devices", json=spec(name="pi", source="agent"), headers=headers)
    assert answer.status_code == 201, answer.text
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes()), "tiny-0-10", PI))


def test_device_with_an_agent_is_renamed_and_keeps_it(api: TestClient, store: Store, ada: Headers) -> None:
    with_agent(api, store, ada)
    answer = api.put("/v1/devices/pi/name", json={"name": "kitchen"}, headers=ada)
    assert answer.status_code == 200, answer.text
    device = DeviceSchema.model_validate(answer.json())
    assert device.agent is not None
    assert (device.name, device.agent.name, device.profile and device.profile.name) == ("kitchen", "pi", "pi")
    again = api.post("/v1/devices", json=spec(name="kitchen", source="agent"), headers=ada)
    assert again.status_code == 201, again.text  # the agent of the device measures it again
    assert api.put("/v1/devices/kitchen/name", json={"name": "bench2"}, headers=ada).status_code == 409  # onboarding


def test_device_with_an_agent_is_given_to_an_owner_who_can_run_it(
    api: TestClient, store: Store, ada: Headers, bob: Headers
) -> None:
    with_agent(api, store, ada)
    answer = api.put("/v1/devices/pi/owner", json={"owner": "nobody"}, headers=ada)
    assert code(answer) == (422, "invalid_input")
    assert code(api.put("/v1/devices/pi/owner", json={"owner": "bob"}, headers=bob)) == (403, "forbidden")
    device = DeviceSchema.model_validate(api.put("/v1/devices/pi/owner", json={"owner": "bob"}, headers=ada).json())
    assert device.agent is not None
    assert (device.owner, device.agent.owner) == ("bob", "bob")
    assert code(api.delete("/v1/devices/pi", headers=ada)) == (403, "forbidden")
    bobs = Principal("bob", frozenset({"device"}))
    assert store.measurements.register("pi", "again", PI, {}, bobs) is not None
    assert api.delete("/v1/devices/pi", headers=bob).status_code == 204


def test_fresh_token_measures_on_one_device_alone(api: TestClient, store: Store, ada: Headers) -> None:
    created = api.post("/v1/agents/pi/token", headers=ada)
    assert created.status_code == 201, created.text
    assert (created.json()["owner"], created.json()["scopes"], created.json()["device"]) == ("ada", ["agent"], "pi")
    headers = {"Authorization": f"Bearer {created.json()['secret']}"}
    assert api.post("/v1/agents/pi/claim", json={"instance": "i"}, headers=headers).status_code == 404
    assert api.post("/v1/agents/other/claim", json={"instance": "i"}, headers=headers).status_code == 403
    assert api.get("/v1/devices", headers=headers).status_code == 403
    assert api.post("/v1/agents/pi/token", headers=headers).status_code == 403
    reader = caller(store, "eve", "read")
    assert api.post("/v1/agents/pi/token", headers=reader).status_code == 403


def test_spec_that_asks_an_agent_for_another_way_is_refused(api: TestClient, store: Store, ada: Headers) -> None:
    store.measurements.register("pi", "i", PI, {}, Principal("ada", frozenset({"device"})))
    answer = api.post("/v1/devices", json=spec(name="pi", source="agent", batch=8), headers=ada)
    assert code(answer) == (422, "invalid_spec")
    assert "batch: the agent of 'pi' was started with 1, got 8" in answer.json()["message"]
    answer = api.post("/v1/devices", json=spec(name="x", runtime="openvine"), headers=ada)
    assert code(answer) == (422, "unknown_name")
    assert "Did you mean 'openvino'" in answer.json()["message"]


def test_agent_is_served_as_a_wheel_that_pip_accepts(api: TestClient) -> None:
    instructions = api.get("/agent/").text
    assert f"http://127.0.0.1/agent/{wheel_name()}" in instructions
    answer = api.get(f"/agent/{wheel_name()}")
    assert answer.status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    record = next(name for name in archive.namelist() if name.endswith("RECORD"))
    for row in archive.read(record).decode().splitlines():
        name, digest, _ = row.split(",")
        expected = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
        assert digest in ("", f"sha256={expected}")
    assert not [name for name in archive.namelist() if name.startswith(("server/", "workers/", "nas/models/"))]
    assert api.get("/agent/other.whl").status_code == 404


def test_served_agent_runs_without_the_service(tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(agent_wheel())).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "sys.modules.update(dict.fromkeys(('torch', 'pydantic', 'server', 'sqlalchemy', 'onnx'))); "
        "import agent.main, predictors.measurement.isolated as m; from nas.core.runtimes import *; "
        "assert m.__file__.startswith(sys.argv[1]); print(runtime_names()); "
        "profile = m.describe_machine('x', m.MeasurementProtocol()); print(profile.runtime)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "onnxruntime CPUExecutionProvider" in output


def test_search_has_the_precision_of_its_device(api: TestClient, store: Store, ada: Headers) -> None:
    onboarded(api, store, ada)
    record = fakes.search_spec(precision="int8", export={"int8": True}).model_dump(mode="json")
    answer = api.post("/v1/searches", json=record, headers=ada)
    assert code(answer) == (422, "invalid_spec")
    assert "precision: device 'bench' was added for float32 networks, got int8" in answer.json()["message"]
    assert "nas devices add NAME --precision int8" in answer.json()["message"]
    mixed = {"precision": "mixed"}
    for change, reason in (
        (mixed, "expects layers of known kinds"),
        ({"export": {"int8": False}}, "export.int8"),
    ):
        answer = api.post("/v1/searches", json={**record, **change}, headers=ada)
        assert reason in answer.json()["message"]

"""HTTP client of a device agent: retries while the service is unreachable, typed tasks and results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from urllib.parse import quote

import httpx

from nas.core.device import DeviceProfile
from nas.core.timing import MeasurementTask, Timing

RETRY_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between tries while the service is unreachable; the last one repeats
AGENT_BUSY, CONFLICT, NOT_FOUND, STOPPED = "agent_busy", "conflict", "not_found", "stopped"
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # never through a proxy


class ServiceError(Exception):
    """An error response of the service: the HTTP ``status`` and the ``code`` of the error. If the agent was stopped,
    the status is 0 and the code ``stopped``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServiceClient:
    """The routes of one agent. Every request is repeated until the service responds or ``stopping`` is set.

    Raises ServiceError on a 4xx response and when stopped.
    """

    def __init__(
        self,
        server: str,
        token: str | None,
        name: str,
        stopping: threading.Event,
        warn: Callable[[str], None],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=server,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=30.0,
            transport=transport,
            mounts=dict.fromkeys(_LOOPBACK),
            trust_env=httpx.URL(server).host not in ("127.0.0.1", "localhost", "::1"),
        )
        self._server = server
        self._root = f"/v1/agents/{quote(name, safe='')}"
        self._stopping = stopping
        self._warn = warn

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register(self, instance: str, profile: DeviceProfile, versions: Mapping[str, str]) -> DeviceProfile | None:
        """Register the machine and return the profile to measure by; None if the profile lacks the canary's time."""
        body = {"instance": instance, "profile": _registration(profile), "versions": versions}
        record = self._request("PUT", "", body).json()["profile"]
        return DeviceProfile.from_json(record) if record is not None else None

    def claim(self, instance: str) -> MeasurementTask | None:
        """Lease the next task, if there is one."""
        record = self._request("POST", "/claim", {"instance": instance}).json()["task"]
        return MeasurementTask.from_json(record) if record is not None else None

    def model(self, task: MeasurementTask) -> bytes:
        """Return the bytes of a task's model, not yet verified."""
        return self._request("GET", f"/tasks/{task.id}/model", params={"lease": task.lease}).content

    def renew(self, task: MeasurementTask) -> bool:
        """Renew the lease on a task, without retry. Returns whether it still holds; True on a server error."""
        response = self._http.post(f"{self._root}/tasks/{task.id}/beat", json={"lease": task.lease})
        return bool(response.json()["held"]) if response.is_success else response.status_code >= 500

    def finish(self, task: MeasurementTask, result: Timing | str) -> None:
        """Send the measured times, or the reason why there are none. The service accepts repeated requests."""
        outcome = {"error": result} if isinstance(result, str) else {"timing": result.as_json()}
        self._request("POST", f"/tasks/{task.id}/result", {"lease": task.lease, **outcome})

    def release(self, task: MeasurementTask) -> None:
        """Return a task to the queue, without retry: if the request is lost, its lease expires."""
        self._http.post(f"{self._root}/tasks/{task.id}/release", json={"lease": task.lease})

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        tries = 0
        while not self._stopping.is_set():
            try:
                response = self._http.request(method, self._root + path, json=body, params=params)
                if response.is_success:
                    return response
                if response.status_code < 500 and response.status_code not in (408, 429):
                    raise _service_error(response)
                problem = f"{self._server} responds with status {response.status_code}"
            except httpx.TransportError as error:
                problem = f"{self._server} cannot be reached ({error or type(error).__name__})"
            pause_s = RETRY_PAUSES_S[min(tries, len(RETRY_PAUSES_S) - 1)]
            self._warn(f"{problem}; trying again in {pause_s:g} s")
            self._stopping.wait(pause_s)
            tries += 1
        raise ServiceError(0, STOPPED, "the agent was stopped")


def _registration(profile: DeviceProfile) -> dict[str, object]:
    """Convert to a registration: the service knows the name and the source, and chooses the protocol but its threads,
    batch and precision."""
    record = profile.as_json()
    protocol = record.pop("protocol")
    del record["name"], record["source"]
    execution_fields = {name: protocol[name] for name in ("threads", "batch", "precision")}
    return {**record, "affinity": list(profile.affinity), **execution_fields}


def _service_error(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
        return ServiceError(response.status_code, str(problem["code"]), str(problem["message"]))
    except (ValueError, KeyError, TypeError):
        text = f"not an hwnas service: it responds with {response.status_code} {response.reason_phrase}"
        return ServiceError(response.status_code, "unexpected", text)

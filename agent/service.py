"""What an agent says to the service, over a network that comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between tries while the service cannot be reached; the last again and again
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # never through a proxy


class Refused(Exception):
    """The service says no. ``status`` is that of HTTP, ``code`` one of the service's own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Service:
    """The routes of one agent. Every call is repeated until the service answers, or ``stopping`` is set.

    Raises Refused for what it answers with an error of the asker's, and Refused 0 when stopped meanwhile.
    """

    def __init__(
        self,
        server: str,
        token: str | None,
        name: str,
        stopping: threading.Event,
        say: Callable[[str], None],
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
        self._say = say

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def register(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Says what machine this is; the profile to measure by, or None while its canary's time is missing."""
        profile: dict[str, Any] | None = self._ask("PUT", "", body).json()["profile"]
        return profile

    def claim(self, instance: str) -> dict[str, Any] | None:
        """The next task, if there is one."""
        task: dict[str, Any] | None = self._ask("POST", "/claim", {"instance": instance}).json()["task"]
        return task

    def model(self, task: Mapping[str, Any]) -> bytes:
        """The bytes of a task's model, not yet checked."""
        return self._ask("GET", f"/tasks/{task['id']}/model", params={"lease": task["lease"]}).content

    def beat(self, task: Mapping[str, Any]) -> bool:
        """Renews the lease on a task, once; whether it holds, as far as is known."""
        answer = self._http.post(f"{self._root}/tasks/{task['id']}/beat", json={"lease": task["lease"]})
        return bool(answer.json()["held"]) if answer.is_success else answer.status_code >= 500

    def finish(self, task: Mapping[str, Any], **result: Any) -> None:
        """Sends a result. The service knows a lease's result again, so that it may be sent twice."""
        self._ask("POST", f"/tasks/{task['id']}/result", {"lease": task["lease"], **result})

    def release(self, task: Mapping[str, Any]) -> None:
        """Gives a task back, once: if that is lost, its lease passes by itself."""
        self._http.post(f"{self._root}/tasks/{task['id']}/release", json={"lease": task["lease"]})

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        tries = 0
        while not self._stopping.is_set():
            try:
                answer = self._http.request(method, self._root + path, json=body, params=params)
                if answer.is_success:
                    return answer
                if answer.status_code < 500 and answer.status_code not in (408, 429):
                    raise _refusal(answer)
                problem = f"{self._server} answers {answer.status_code}"
            except httpx.TransportError as error:
                problem = f"{self._server} cannot be reached ({error or type(error).__name__})"
            pause_s = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
            self._say(f"{problem}; trying again in {pause_s:g} s")
            self._stopping.wait(pause_s)
            tries += 1
        raise Refused(0, "stopped", "the agent was told to stop")


def _refusal(answer: httpx.Response) -> Refused:
    try:
        problem = answer.json()
        return Refused(answer.status_code, str(problem["code"]), str(problem["message"]))
    except (ValueError, KeyError, TypeError):
        text = f"what answers is no hwnas service: {answer.status_code} {answer.reason_phrase}"
        return Refused(answer.status_code, "unexpected", text)

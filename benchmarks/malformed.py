"""Malformed requests against the service: fuzzed JSON, wrong types, sizes, paths, encodings, headers and half requests.

A service with the default plug-ins, one device and one finished search runs in a process of its own on loopback, as
``nas serve`` runs it. Each request goes over a socket of its own, byte by byte as it was made. What counts: no answer
of 500 or above, none that does not come, a service that still answers at the end, and memory that does not grow.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks._cli import ROOT, Options, main

REQUESTS = 10_000
PARTS = 10  # memory is looked at after each
AT_A_TIME = 8
REQUEST_S = 1.0  # how long the service waits for half a request; with its usual 20 s this would take hours
PATIENCE_S = 60.0  # an answer that takes longer counts as missing
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class MalformedCase:
    """What is sent. ``half``: the sender closes its side after it, as for a request of which the rest never comes."""

    kind: str
    data: bytes
    half: bool = False


def bench(requests: int, seed: int) -> dict[str, Any]:
    """Sends ``requests`` requests and tells what came back."""
    with service() as (port, pid, search):
        rng = random.Random(seed)
        kinds: Counter[str] = Counter()
        counted: Counter[str] = Counter()
        slowest: dict[str, float] = {}
        wrong: list[str] = []

        def cases(n: int) -> Iterator[MalformedCase]:
            for _ in range(n):
                case = make_case(rng, search)
                kinds[case.kind] += 1
                yield case

        start_s = time.monotonic()
        memory_mb = []
        for part in range(PARTS):
            n = requests * (part + 1) // PARTS - requests * part // PARTS
            asyncio.run(_send_all(cases(n), port, counted, slowest, wrong))
            memory_mb.append(round(resident_mb(pid), 1))
        seconds = time.monotonic() - start_s
        answering = _works(port, search)
    return {
        "requests": kinds.total(),
        "kinds": dict(sorted(kinds.items())),
        "statuses": dict(sorted(counted.items())),
        "server_errors": sum(n for name, n in counted.items() if name.startswith("5")),
        "unanswered": counted["unanswered"],
        "answering": answering,
        "rss_before_mb": memory_mb[len(memory_mb) // 4],  # caches, pools and threads have filled by then
        "rss_after_mb": memory_mb[-1],
        "rss_mb": memory_mb,
        "seconds": round(seconds, 1),
        "slowest_s": {kind: round(seconds, 2) for kind, seconds in sorted(slowest.items(), key=lambda k: -k[1])[:5]},
        "wrong": wrong[:20],
    }


# The service


@contextmanager
def service() -> Iterator[tuple[int, int, str]]:
    """A service in a process of its own: its port, its process, and the id of its finished search."""
    with (
        tempfile.TemporaryDirectory(prefix="hwnas-malformed-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        command = [sys.executable, "-m", "benchmarks.malformed", "--serve", str(listener.fileno()), folder]
        with (
            (Path(folder) / "log").open("wb") as log,
            subprocess.Popen(
                command, cwd=ROOT, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=log, text=True
            ) as child,
        ):
            try:
                assert child.stdout is not None
                search = child.stdout.readline().strip()
                if not search:
                    raise RuntimeError(f"the service did not start: {(Path(folder) / 'log').read_text()[-2000:]}")
                yield listener.getsockname()[1], child.pid, search
            finally:
                child.terminate()


def serve(fd: int, folder: Path) -> None:
    """What runs in that process."""
    import uvicorn

    from server.api.app import create_app
    from server.api.http import server_config
    from server.settings import Settings
    from server.store.store import open_store

    os.chdir(folder)  # so that the path "." does not name a whole checkout with its virtual environment
    settings = Settings(home=folder, log_level="error", request_seconds=REQUEST_S)
    with open_store(settings.database, settings.blobs) as store:
        search = _furnish(store)
        print(search, flush=True)
        uvicorn.Server(server_config(create_app(settings, store), settings)).run(sockets=[socket.socket(fileno=fd)])


def _furnish(store: Any) -> str:
    """A device whose latency is linear in the features, and a search on it that has ended with three networks."""
    import numpy as np

    from nas.core import registry
    from nas.core.arch import as_archs, sample
    from nas.core.device import DeviceProfile
    from nas.core.events import Candidate, Evaluated, Exported, StageFinished, StageStarted, encode
    from nas.core.spec import DeviceSpec, SearchSpec
    from predictors.families.bayesian_linear import BayesianLinear
    from predictors.onboarding.card import make_card
    from predictors.onboarding.results import FitResult
    from predictors.storage import dump_predictor

    spec, device = SearchSpec(), DeviceSpec()
    shape = registry.load_dataset(spec.data.name).describe(spec.data)
    space = registry.build_space(spec.space, shape)
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 96))
    features_NF = space.features(genes_NG)
    latency_ms_N = 0.02 + features_NF @ (0.01 / np.maximum(features_NF.mean(axis=0), 1e-9))
    predictor = BayesianLinear.fit(features_NF, latency_ms_N)
    profile = DeviceProfile(device.name, "x86_64", "a processor", 2, "onnxruntime", "1.0", "linux")
    predicted = predictor.predict(features_NF[:24])
    card = make_card(predictor, profile, space, 96, latency_ms_N[:24], predicted)
    blob = store.blobs.put(dump_predictor(predictor))
    fitted = FitResult(card=card, blob=blob, family=predictor.family, space_id=space.id, profile=profile.id).to_json()

    def run(spec: SearchSpec | DeviceSpec, events: list[Any], stages: tuple[str, ...], space_id: str | None) -> str:
        job: str = store.jobs.submit(spec, None, stages=stages, space_id=space_id)
        lease = store.jobs.claim("benchmark", 60.0)
        assert lease is not None
        assert store.jobs.append(lease, 1, [encode(e) for e in events], 60.0) == "continue"
        assert store.jobs.finish(lease, "succeeded")
        return job

    onboarding = [
        StageStarted("profile", 0, 2),
        StageFinished("profile", 0.1, {"profile": profile.as_json()}),
        StageStarted("fit", 1, 2),
        StageFinished("fit", 0.1, fitted),
    ]
    run(device, onboarding, ("profile", "fit"), None)
    archs = as_archs(space.name, genes_NG[:3])
    costs = {k: v[:3].tolist() for k, v in space.costs(genes_NG[:3]).items()}
    metrics = [{"val_accuracy": 80.0 + i, **{k: v[i] for k, v in costs.items()}} for i in range(3)]
    blob = store.blobs.put(b"a model")
    events = [
        StageStarted("explore", 0, 1),
        Evaluated(tuple(Candidate(a, "search", m) for a, m in zip(archs, metrics, strict=True))),
        StageFinished("explore", 1.0),
        Exported(archs[0], "model.onnx", blob, 7, "application/octet-stream"),
    ]
    return run(spec, events, ("explore",), space.id)


# The requests


def make_case(rng: random.Random, search: str) -> MalformedCase:
    """One malformed request; the same for the same state of ``rng``."""
    kind, make = rng.choice(_KINDS)
    case = make(rng, search)
    return case if isinstance(case, MalformedCase) else MalformedCase(kind, case)


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, host: str = "127.0.0.1"
) -> bytes:
    """A request as it goes over the wire. A header that is given replaces ours; an empty one is left out."""
    lines = {"Host": host, "Connection": "close"}
    if body:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    5e-324,
    "",
    "x" * 5000,
    "\x00",
    "\ud800",
    "\u202e\U0001f4a3",
    "../../etc/passwd",
    "__import__('os').system('id')",
    "{{7*7}}",
    "'; DROP TABLE jobs; --",
    [],
    {},
    [[]],
    {"": ""},
    {"__class__": "x"},
    [None] * 100,
]
_PATHS = (
    "/etc/passwd",
    "../../../etc/shadow",
    "/proc/self/environ",
    "/proc/self/mem",
    "/dev/zero",
    "/dev/stdin",
    "~nobody-of-this-name/x",
    "~root",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x.npz",
    "s3://bucket/x",
    "\\\\host\\share",
    "a\x00b",
    "x" * 5000,
    "/" + "x/" * 2000,
    "",
    ".",
    "\ud800",
)
_NAMES = ("os", "os.system", "builtins.eval", "../mobilenet_v3", "mobilenet_v3.py", "nas.core", "\x00", "", "x" * 5000)
_BODIES = {
    "searches": "POST /v1/searches",
    "dry": "POST /v1/searches?dry_run=true&measure=false",
    "devices": "POST /v1/devices",
    "extend": "POST /v1/searches/{id}/extend",
    "fork": "POST /v1/searches/{id}/fork",
    "priority": "PUT /v1/searches/{id}/priority",
    "tokens": "POST /v1/tokens",
    "quotas": "PUT /v1/quotas/ada",
}


def _good(kind: str) -> dict[str, Any]:
    from nas.core.spec import DeviceSpec, SearchSpec

    return {
        "searches": SearchSpec().model_dump(mode="json"),
        "dry": SearchSpec().model_dump(mode="json"),
        "devices": DeviceSpec(name="other").model_dump(mode="json"),
        "extend": {"evaluations": 16, "bounds": {"latency": 1.0}},
        "fork": {"name": "x", "budget": {"evaluations": 16, "verified": 2}},
        "priority": {"priority": 3},
        "tokens": {"owner": "ada", "name": "x", "scopes": ["read"], "expires_at": "2100-01-01T00:00:00Z"},
        "quotas": {"max_queued": 3, "max_running": None, "gpu_hours": 2.5},
    }[kind]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value inside a record."""
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [place for key, child in value.items() for place in _places(child, (*path, key))]
    elif isinstance(value, list):
        inner = [place for i, child in enumerate(value) for place in _places(child, (*path, i))]
    return [path, *inner]


def _changed(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(record) if isinstance(record, dict) else list(record)
    copy[place[0]] = _changed(copy[place[0]], place[1:], value)
    return copy


def _send_record(kind: str, record: Any, search: str, **headers: str) -> bytes:
    method, path = _BODIES[kind].replace("{id}", search).split(" ")
    return request(method, path, json.dumps(record).encode(), headers)


def _wrong_types(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(list(_BODIES))
    record: Any = _good(kind)
    for _ in range(rng.randint(1, 3)):
        record = _changed(record, rng.choice(_places(record)), rng.choice(_ODD))
    return _send_record(kind, record, search)


def _unknown_keys(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(list(_BODIES))
    return _send_record(kind, {**_good(kind), str(rng.choice(_ODD))[:100]: rng.choice(_ODD)}, search)


def _torn_json(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(list(_BODIES))
    method, path = _BODIES[kind].replace("{id}", search).split(" ")
    text = bytearray(json.dumps(_good(kind)).encode())
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(text))
        match rng.randrange(3):
            case 0:
                text[at] = rng.randrange(256)
            case 1:
                del text[at : at + rng.randint(1, 20)]
            case _:
                text[at:at] = rng.choice(
                    [b"[", b"{", b'"', b"\\u", b"\xff", b"NaN", b"1e999", b"9" * 5000, b"/*", b","]
                )
        text = text or bytearray(b"{")
    return request(method, path, bytes(text))


def _deep(rng: random.Random, search: str) -> bytes:
    depth = rng.choice([33, 1000, 100_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    bomb = opening * depth + b"1" + closing * depth
    body = rng.choice([bomb, opening * depth, b'{"params": ' + bomb + b"}", bomb.decode().encode("utf-16-le")])
    return request("POST", "/v1/searches", body[: 1024 * 1024])


def _encoded(rng: random.Random, search: str) -> bytes:
    text = json.dumps(_good("searches"))
    body = rng.choice(
        [
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\xef\xbb\xbf" + text.encode(),
            b"\xff\xfe\x00",
            text.encode().replace(b"search", b"\xc0\xaf\xed\xa0\x80"),
        ]
    )
    kind = rng.choice(
        ["application/json; charset=utf-16", "text/plain", "multipart/form-data", "application/x-yaml", "/"]
    )
    return request("POST", "/v1/searches", body, {"Content-Type": kind})


@cache
def _zipped(megabytes: int) -> bytes:
    return gzip.compress(b" " * megabytes * 1024 * 1024)


def _bomb(rng: random.Random, search: str) -> bytes:
    body = _zipped(rng.choice([1, 64]))
    how = rng.choice(["gzip", "deflate", "br", "zstd", "identity, gzip", "x" * 200])
    return request("POST", "/v1/searches", body, {"Content-Encoding": how})


def _oversized(rng: random.Random, search: str) -> MalformedCase:
    match rng.randrange(5):
        case 0:
            data = request("POST", "/v1/searches", b" " * (1024 * 1024 + 1))
        case 1:
            data = request(
                "POST", "/v1/searches", b"{}", {"Content-Length": rng.choice(["9" * 30, "99999999999", "-1", "x"])}
            )
        case 2:
            data = (
                request("POST", "/v1/searches", b"", {"Transfer-Encoding": "chunked"}) + b"10000\r\n" + b" " * 0x10000
            )
            data += b"\r\n10000\r\n" + b" " * 0x10000
        case 3:
            data = request("GET", "/v1/searches?cursor=" + "x" * rng.choice([500, 9000, 100_000]))
        case _:
            data = request("GET", "/v1/searches", headers={f"X-{i}": "y" * 900 for i in range(rng.choice([40, 200]))})
    return MalformedCase("oversized", data, half=True)


def _paths(rng: random.Random, search: str) -> bytes:
    bad = rng.choice(
        [
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e",
            "%00",
            "%ff%fe",
            "%ed%a0%80",
            "%F0%9F%92%A3",
            "..%5c..%5c",
            "a%0d%0aX-Evil:%201",
            "x" * 3000,
            "%25%32%65",
            ";id",
            "'%20or%20'1'='1",
            "*",
        ]
    )
    return request(
        rng.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT"]),
        rng.choice(
            [
                "/v1/searches/{}",
                "/v1/searches/{}/front",
                "/v1/searches/{}/events",
                f"/v1/searches/{search}/candidates/{{}}",
                f"/v1/searches/{search}/artifacts/{{}}/model.onnx",
                f"/v1/searches/{search}/artifacts/x/{{}}",
                "/v1/devices/{}",
                "/v1/devices/{}/events",
                "/v1/predictors/{}",
                "/v1/tokens/{}",
                "/v1/quotas/{}",
                "/{}",
                "/v1/../{}",
                "//{}",
            ]
        ).format(bad),
        rng.choice([b"", b"{}"]),
    )


def _data_paths(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(["searches", "dry", "devices"])
    data = {"name": rng.choice(["npz", "folder", "digits", "parquet"]), "path": rng.choice(_PATHS)}
    return _send_record(kind, {**_good(kind), "data": data}, search)


def _plugins(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(["searches", "dry", "devices"])
    record = _good(kind)
    part = rng.choice(["space", "data", *(["strategy"] if kind != "devices" else ["predictor"])])
    name = rng.choice(_NAMES)
    record[part] = name if part == "predictor" else {**record[part], "name": name}
    return _send_record(kind, record, search)


def _parameters(rng: random.Random, search: str) -> bytes:
    kind = rng.choice(["searches", "dry", "devices"])
    record = _good(kind)
    key = rng.choice(["preset", "depths", "kernels", "expands", "widths", "resolutions", "stages", "hidden", "dropout"])
    huge: list[Any] = [[10**6], list(range(1, 5000)), [1e308], [0.1, 1e-300], [2**62], "digits" * 10]
    record["space"] = {"name": "mobilenet_v3", "params": {"preset": "digits", key: rng.choice(_ODD + huge)}}
    return _send_record(kind, record, search)


def _queries(rng: random.Random, search: str) -> bytes:
    value = rng.choice(
        ["-1", "0", "1e9", "9" * 40, "NaN", "inf", "%00", "%ff", "true", "[]", "", "WzFlOTk5LCAieCJd", "x" * 390]
    )
    path = rng.choice(
        [
            "/v1/searches?limit={}",
            "/v1/searches?cursor={}",
            "/v1/searches?status={}",
            "/v1/searches?owner={}",
            "/v1/searches?parent={}",
            f"/v1/searches/{search}/candidates?cursor={{}}",
            f"/v1/searches/{search}/candidates?order={{}}",
            f"/v1/searches/{search}/candidates?limit={{}}",
            f"/v1/searches/{search}/front?bound_ms={{}}",
            f"/v1/searches/{search}/front?device={{}}",
            f"/v1/searches/{search}/front?objectives={{}}",
            f"/v1/searches/{search}/events?after={{}}",
            f"/v1/searches/{search}/events?kind={{}}",
            "/v1/audit?cursor={}",
            "/v1/audit?owner={}",
            "/v1/predictors?device={}",
        ]
    )
    return request("GET", path.format(value))


def _headers(rng: random.Random, search: str) -> bytes:
    raw = rng.choice(
        [
            b"Host: evil.example\r\n",
            b"Host: 127.0.0.1\r\nHost: evil.example\r\n",
            b"",
            b"Host: 127.0.0.1\r\nAuthorization: Bearer hwnas_000000000000_" + b"A" * 43 + b"\r\n",
            b"Host: 127.0.0.1\r\nAuthorization: Bearer " + b"\xff" * 40 + b"\r\n",
            b"Host: 127.0.0.1\r\nAuthorization: Negotiate x\r\n",
            b"Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
            b"Host: 127.0.0.1\r\nX-Forwarded-For: 1.2.3.4\r\n",
            b"Host: 127.0.0.1\r\nIdempotency-Key: " + b"\xf0\x9f" * 70 + b"\r\n",
            b"Host: 127.0.0.1\r\nLast-Event-ID: 99999999999999999999\r\n",
            b"Host: 127.0.0.1\r\nAccept: text/event-stream\r\nLast-Event-ID: -1\r\n",
            b'Host: 127.0.0.1\r\nIf-None-Match: "' + b"a" * 5000 + b'"\r\n',
            b"Host: 127.0.0.1\r\n folded: x\r\n",
            b"Host: 127.0.0.1\r\nBad Header: x\r\n",
            b"Host: 127.0.0.1\r\nX: a\x00b\r\n",
            b"Host: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
            b"Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            b"Host: 127.0.0.1\r\nTransfer-Encoding: xchunked\r\n",
            b"Host: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n",
            b"Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n",
        ]
    )
    line = rng.choice([b"GET /v1/me", b"POST /v1/searches", f"GET /v1/searches/{search}/events?after=1".encode()])
    return line + b" HTTP/1.1\r\nConnection: close\r\n" + raw + b"\r\n{}"


def _protocol(rng: random.Random, search: str) -> MalformedCase:
    data = rng.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v1/me HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"\x00" * 200,
            bytes(rng.randrange(256) for _ in range(200)),
            b"BREW /v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"GET /v1/me HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20,
        ]
    )
    return MalformedCase("protocol", data, half=True)


def _half(rng: random.Random, search: str) -> MalformedCase:
    request = _send_record("searches", _good("searches"), search)
    return MalformedCase("half closed", request[: rng.randrange(1, len(request))], half=True)


_KINDS: list[tuple[str, Callable[[random.Random, str], bytes | MalformedCase]]] = [
    ("wrong types", _wrong_types),
    ("wrong types", _wrong_types),
    ("unknown keys", _unknown_keys),
    ("torn json", _torn_json),
    ("torn json", _torn_json),
    ("deep json", _deep),
    ("encodings", _encoded),
    ("compressed", _bomb),
    ("oversized", _oversized),
    ("paths", _paths),
    ("paths", _paths),
    ("data paths", _data_paths),
    ("plug-ins", _plugins),
    ("parameters", _parameters),
    ("queries", _queries),
    ("queries", _queries),
    ("headers", _headers),
    ("headers", _headers),
    ("protocol", _protocol),
    ("half closed", _half),
]


# Sending


async def _send_all(
    cases: Iterator[MalformedCase], port: int, counted: Counter[str], slowest: dict[str, float], wrong: list[str]
) -> None:
    async def work() -> None:
        for case in cases:
            start_s = time.monotonic()
            status = await _send(case, port)
            slowest[case.kind] = max(slowest.get(case.kind, 0.0), time.monotonic() - start_s)
            counted[f"{status // 100}xx" if isinstance(status, int) else status] += 1
            if status == "unanswered" or (isinstance(status, int) and status >= 500):
                wrong.append(f"{status} to {case.kind}: {case.data[:1500]!r}")

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))


async def _send(case: MalformedCase, port: int) -> int | str:
    """The status that came back; ``closed`` without one, or ``unanswered`` when nothing happened at all."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                with suppress(OSError):  # it may refuse before all is sent
                    writer.write(case.data)
                    await writer.drain()
                    if case.half:
                        writer.write_eof()
                return await _status(reader)
            finally:
                writer.close()
    except TimeoutError:
        return "unanswered"


async def _status(reader: asyncio.StreamReader) -> int | str:
    try:
        while True:
            head = await reader.readuntil(_END)
            match = re.match(rb"HTTP/1\.[01] (\d{3})", head)
            if match is None:
                return "no http"
            if match[1] != b"100":
                return int(match[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return "closed"


def _works(port: int, search: str) -> bool:
    """Whether the service still does what it is for: it shows a search and takes another."""
    from nas.client import Client
    from nas.core.spec import SearchSpec

    with Client(f"http://127.0.0.1:{port}") as nas:
        return nas.search(search).status == "succeeded" and nas.submit(SearchSpec(name="after")).status == "queued"


def resident_mb(pid: int) -> float:
    """Memory that a process has in use (Linux)."""
    fields = (Path("/proc") / str(pid) / "status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", fields)[0]) / 1024


def _options(options: Options) -> Mapping[str, Any]:
    return bench(REQUESTS, options.seeds[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main("malformed", _options, __doc__ or "", ("fastapi", "starlette", "uvicorn", "h11", "pydantic"), seeds=1)

"""Limits on a request: the size of its URL, headers and body, and the depth of its JSON."""

from __future__ import annotations

import asyncio
import json
import re

import numpy as np
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api import errors

MAX_BODY = 1024 * 1024
MAX_FILE = 32 * 1024 * 1024
MAX_UPLOAD = 2 * 1024**3
UPLOAD_PATHS = frozenset({"/v1/tables"})  # their body is a file rather than a JSON document
# Their routes receive the body a part at a time: files of models, and whatever the dashboard's forms upload.
_STREAMED_PATHS = re.compile(r"/v1/(?:model|data)-files|/_nicegui/client/[^/]+/upload/\d+")
MAX_URL = 8 * 1024
MAX_HEADERS = 32 * 1024
MAX_DEPTH = 32  # of arrays and objects in JSON
MAX_INTEGER = 2**63  # the range of a database column and of an int64 array

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_OPENING, _CLOSING = (ord("["), ord("{")), (ord("]"), ord("}"))


class RequestLimitMiddleware:
    """Refuses requests that are too large, too slow, or whose JSON is out of range, before a route parses them."""

    def __init__(self, app: ASGIApp, body_s: float, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, which is small, check it, and forward the request with it; large files pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit_bytes = self._limit_bytes(scope["path"])
        refused = _head_problem(scope) or self._content_length_problem(headers, limit_bytes)
        if _is_streamed(scope["path"]):
            receive = _metered(receive, limit_bytes, self._body_s)
        elif refused is None and _has_body(headers):
            try:
                async with asyncio.timeout(self._body_s):
                    body = await self._read(receive, limit_bytes)
            except TimeoutError:
                refused = (408, f"the request's body took longer than {self._body_s:g} s to arrive")
            else:
                if body is None:
                    return  # the client disconnected
                receive = _replay(body, receive)
                if len(body) > limit_bytes:
                    refused = _body_too_large(limit_bytes)
                elif body and scope["path"].startswith("/v1/") and not _is_file(scope["path"], headers):
                    problem = json_problem(body)
                    refused = (422, problem) if problem is not None else None
        if refused is not None:
            await errors.refusal(*refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _limit_bytes(self, path: str) -> int:
        if _is_streamed(path):
            return MAX_UPLOAD
        return MAX_FILE if path in UPLOAD_PATHS else self._max_body

    def _content_length_problem(self, headers: Headers, limit_bytes: int) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if headers.get("content-encoding", "identity").lower() != "identity":
            return 415, f"expected a body without Content-Encoding, got {headers['content-encoding'][:100]!r}"
        if not length.isascii() or not length.isdigit():
            return 400, f"expected a number as Content-Length, got {length[:100]!r}"
        return _body_too_large(limit_bytes) if len(length) > 12 or int(length) > limit_bytes else None

    async def _read(self, receive: Receive, limit_bytes: int) -> bytes | None:
        """The body, or its beginning once that exceeds ``limit_bytes``; None if the client disconnected."""
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if not message.get("more_body", False) or size > limit_bytes:
                return b"".join(chunks)


def _is_streamed(path: str) -> bool:
    return _STREAMED_PATHS.fullmatch(path) is not None


def _metered(receive: Receive, limit_bytes: int, part_s: float) -> Receive:
    """Hand on the parts of a body. Raises HTTPException for one that takes longer than ``part_s``, and once there are
    more than ``limit_bytes``."""
    size_bytes, is_complete = 0, False

    async def receive_part() -> Message:
        nonlocal size_bytes, is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout(part_s):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"no more of the request's body arrived within {part_s:g} s") from None
        size_bytes += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if size_bytes > limit_bytes:
            raise HTTPException(*_body_too_large(limit_bytes))
        return message

    return receive_part


def _body_too_large(limit_bytes: int) -> tuple[int, str]:
    return 413, f"the request's body is larger than {limit_bytes} bytes"


def _is_file(path: str, headers: Headers) -> bool:
    """Whether a body is an uploaded file that is not JSON; its route checks it."""
    return path in UPLOAD_PATHS and "json" not in headers.get("content-type", "json").lower()


def json_problem(body: bytes) -> str | None:
    """Why this JSON is out of range; None if it is fine, or malformed, which the route reports.

    Nesting is counted without a parser, because deep nesting could exhaust its stack.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"expected JSON in UTF-8: {error}"
    if "\0" in text:  # a parser would accept UTF-16 and UTF-32, which contain them
        return "expected JSON in UTF-8, got NUL characters"
    marks = np.frombuffer(_STRING.sub(b"", body), dtype=np.uint8)
    steps = np.isin(marks, _OPENING).astype(np.int32) - np.isin(marks, _CLOSING)
    if len(steps) and int(np.cumsum(steps).max()) > MAX_DEPTH:
        return f"expected JSON of at most {MAX_DEPTH} levels, got more"
    try:
        json.loads(text, parse_int=_integer, object_pairs_hook=_distinct_keys)
    except _OutOfRange as error:
        return str(error)
    except ValueError:
        return None  # malformed; the route reports it
    return None


class _OutOfRange(Exception):
    pass


def _distinct_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; of a key given twice, the last would win."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in record if names.count(name) > 1)
        raise _OutOfRange(f"expected every key of an object once, got {twice!r:.60} more than once")
    return record


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= MAX_INTEGER:
        raise _OutOfRange(f"expected integers below 2^63, got {text[:24]}{'...' if len(text) > 24 else ''}")
    return int(text)


def _head_problem(scope: Scope) -> tuple[int, str] | None:
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > MAX_URL:
        return 414, f"the request's URL is longer than {MAX_URL} bytes"
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return 431, f"the request's headers are larger than {MAX_HEADERS} bytes"
    return None


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again

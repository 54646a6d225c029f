"""Files as bodies of requests."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from nas.core.errors import InvalidInput

FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""What OpenAPI says of an operation whose body is a file."""


@asynccontextmanager
async def received_file(request: Request) -> AsyncIterator[Path]:
    """The body as a file, which is deleted at the end. Raises InvalidInput for an empty one, and HTTPException for one
    that broke off."""
    with tempfile.TemporaryDirectory(prefix="hwnas-upload-") as folder:
        path = Path(folder) / "file"
        with path.open("wb") as file:
            try:
                async for part in request.stream():
                    await run_in_threadpool(file.write, part)
            except ClientDisconnect:
                raise HTTPException(400, f"the file broke off after {file.tell():,} bytes") from None
        if path.stat().st_size == 0:
            raise InvalidInput("expected a file, got an empty body")
        yield path

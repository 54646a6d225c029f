"""The device agent as a wheel that this service makes of its own files, so that devices measure by the same protocol.

It holds the agent, the protocol, the runtimes and the plain values they use: no server, no torch. Its runtimes are
extras, of which a machine installs the one that it measures with.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "hwnas-agent"
_FOLDERS = ("agent", "nas/core", "predictors/measurement", "predictors/runtimes")
_FILES = ("nas/__init__.py", "nas/cpus.py", "predictors/__init__.py")
_SUFFIXES = (".py", ".onnx")
_EXTRAS = {
    "onnxruntime": "onnxruntime>=1.22",
    "openvino": "openvino>=2026.0",
    "litert": "ai-edge-litert>=2.1",
    "command": "onnx>=1.18",
    "nvml": "nvidia-ml-py>=13.580",
}
_RUNTIMES = {
    "command": "predictors.runtimes.command:COMMAND",
    "litert": "predictors.runtimes.litert:LITERT",
    "onnxruntime": "predictors.runtimes.onnx_runtime:ONNXRUNTIME",
    "openvino": "predictors.runtimes.openvino:OPENVINO",
}


def wheel_name() -> str:
    """The file name, with the version of this service."""
    return f"hwnas_agent-{version('hwnas')}-py3-none-any.whl"


def install_command(address: str, runtime: str = "onnxruntime") -> str:
    """How pip installs the agent from a service at ``address``."""
    return f"pip install '{PACKAGE}[{runtime}] @ {address}/agent/{wheel_name()}'"


@cache
def agent_wheel() -> bytes:
    """The wheel; equal files give equal bytes."""
    contents = {**dict(_sources()), **_metadata()}
    info = f"hwnas_agent-{version('hwnas')}.dist-info"
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    root = _root()
    paths = [root / name for name in _FILES]
    for folder in _FOLDERS:
        paths += sorted(path for path in (root / folder).iterdir() if path.suffix in _SUFFIXES)
    for path in paths:
        yield path.relative_to(root).as_posix(), path.read_bytes()


def _root() -> Path:
    """The folder in which this project's packages lie."""
    spec = find_spec("nas")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def _metadata() -> dict[str, bytes]:
    release = version("hwnas")
    info = f"hwnas_agent-{release}.dist-info"
    extras = [
        line
        for extra, requirement in _EXTRAS.items()
        for line in (f"Provides-Extra: {extra}", f"Requires-Dist: {requirement}; extra == '{extra}'")
    ]
    head = [
        "Metadata-Version: 2.1",
        f"Name: {PACKAGE}",
        f"Version: {release}",
        "Summary: Makes a machine a device of an hwnas service.",
        "License: Apache-2.0",
        "Requires-Python: >=3.11",
        "Requires-Dist: httpx>=0.28",
        "Requires-Dist: numpy>=2.0",
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: hwnas", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    points = ["[console_scripts]", "nas-agent = agent.main:main", "", "[nas.runtimes]"]
    points += [f"{name} = {value}" for name, value in _RUNTIMES.items()]
    texts = {"METADATA": [*head, *extras], "WHEEL": wheel, "entry_points.txt": points}
    return {f"{info}/{name}": ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

"""Reading a file in a process of its own, with limits on memory and time, so that no upload can harm the reader.

The child imports neither torch nor the rest of this project's plug-ins, and returns a graph as JSON and weights as
safetensors in a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from nas.models.graph import InvalidModel, ModelGraph, check_weights
from nas.models.reading.model import ReadModel

GIB = 1 << 30
_REFUSED = 3  # exit status of a child whose message on standard error is meant for the user


@dataclass(frozen=True)
class ReadLimits:
    """``memory_bytes``: address space of the child; ``file_bytes``: the largest file, and its largest content."""

    memory_bytes: int = 12 * GIB
    file_bytes: int = 4 * GIB
    time_s: float = 120.0


def read_model(path: Path, limits: ReadLimits = ReadLimits(), name: str | None = None) -> ReadModel:
    """Read a ``.pt2`` or ``.onnx`` file in a child process. ``name``: what messages call it, else as its file.

    Raises InvalidModel for a file that is missing, too large, of another kind or refused, and if reading it exceeds a
    limit.
    """
    check_file(path, limits)
    name = name or path.name
    with tempfile.TemporaryDirectory(prefix="hwnas-model-") as folder:
        command = [
            *(sys.executable, "-I", "-m", "nas.models.reading.child", str(path.absolute()), folder),
            *("--memory-bytes", str(limits.memory_bytes), "--file-bytes", str(limits.file_bytes)),
            *("--time-s", str(limits.time_s)),
        ]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=limits.time_s, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise InvalidModel(f"{name}: expected it to be read within {limits.time_s:g} s, got no end") from None
        if ended.returncode == _REFUSED:
            raise InvalidModel(f"{name}: {ended.stderr.strip()}")
        if ended.returncode != 0:
            lines = ended.stderr.strip().splitlines()
            last = lines[-1] if lines else f"exit status {ended.returncode}"
            raise InvalidModel(f"{name}: expected a file that can be read within {limits}, got: {last}")
        graph = ModelGraph.from_json((Path(folder) / "graph.json").read_bytes())
        weights = safetensors.numpy.load((Path(folder) / "weights.safetensors").read_bytes())
    check_weights(graph, weights)
    return ReadModel(graph, weights)


def check_file(path: Path, limits: ReadLimits) -> None:
    """Raises InvalidModel for a path that is no file of a known kind, or a larger one than allowed."""
    if not path.is_file():
        raise InvalidModel(f"{path}: expected a file, got none")
    if path.suffix not in _readers():
        suffixes = " or ".join(_readers())
        raise InvalidModel(
            f"{path.name}: expected a file of the kind {suffixes}, got {path.suffix or 'no suffix'}{_hint(path)}"
        )
    if (size := path.stat().st_size) > limits.file_bytes:
        raise InvalidModel(f"{path.name}: expected at most {limits.file_bytes:,} bytes, got {size:,}")


def _hint(path: Path) -> str:
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
        return ": a pickled checkpoint runs code when it is opened; export the model with torch.export instead"
    return ""


def _readers() -> Mapping[str, Callable[[Path, int], ReadModel]]:
    from nas.models.reading.exported import read_exported
    from nas.models.reading.onnx_model import read_onnx

    return {".pt2": read_exported, ".onnx": read_onnx}


def main() -> int:
    """The child: read the file, write graph and weights into the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, required=True)
    parser.add_argument("--time-s", type=float, required=True)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (arguments.memory_bytes, arguments.memory_bytes))
    seconds = int(arguments.time_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        model = _readers()[arguments.path.suffix](arguments.path, arguments.file_bytes)
    except InvalidModel as error:
        sys.stderr.write(f"{error}\n")
        return _REFUSED
    except MemoryError:
        sys.stderr.write(f"expected a file that can be read within {arguments.memory_bytes:,} bytes of memory\n")
        return _REFUSED
    (arguments.folder / "graph.json").write_bytes(model.graph.to_json())
    (arguments.folder / "weights.safetensors").write_bytes(safetensors.numpy.save(model.weights))
    return 0


if __name__ == "__main__":
    sys.exit(main())

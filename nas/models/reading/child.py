"""Reading a model in a process of its own, with limits on memory and time, so that no upload can harm the reader.

The child imports neither torch nor plug-ins for a file. It returns a graph as JSON and weights as safetensors in a
temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from pydantic import TypeAdapter

from nas.core.model_spec import PICKLE_SUFFIXES, PICKLED_HINT
from nas.core.parent import Preprocessing
from nas.models.graph import InvalidModel, ModelGraph, UnfinishedReading, check_weights
from nas.models.reading.model import ReadModel

GIB = 1 << 30
_REFUSED, _REFUSED_WEIGHTS, _UNFINISHED = 3, 4, 5
"""Exit statuses of a child whose message on standard error is meant for the user: it is about the model, about the file
of weights, or about a limit."""


@dataclass(frozen=True)
class ReadLimits:
    """``memory_bytes``: address space of the child; ``file_bytes``: the largest file, and its largest content."""

    memory_bytes: int = 12 * GIB
    file_bytes: int = 4 * GIB
    time_s: float = 120.0


@dataclass(frozen=True)
class ReadRequest:
    """What to read: a ``.pt2`` or ``.onnx`` ``file``, or else the model of an entry point of the group ``nas.models``
    (``package``), or one that timm knows by name (``timm``). ``weights``: a file whose tensors replace the model's."""

    file: Path | None = None
    package: str | None = None
    timm: str | None = None
    pretrained: bool = True
    weights: Path | None = None


@dataclass(frozen=True)
class _ChildResult:
    """What of a model is neither graph nor weights."""

    preprocessing: Preprocessing | None
    warnings: tuple[str, ...]


def read_model(path: Path, limits: ReadLimits = ReadLimits(), name: str | None = None) -> ReadModel:
    """Read a ``.pt2`` or ``.onnx`` file in a child process. ``name``: what messages call it, else as its file.

    Raises InvalidModel for a file that is missing, too large, of another kind or refused, and if reading it exceeds a
    limit.
    """
    check_file(path, limits)
    return read_source(ReadRequest(file=path), name or path.name, limits)


def read_source(
    request: ReadRequest, name: str, limits: ReadLimits = ReadLimits(), weights_name: str = ""
) -> ReadModel:
    """Read a model in a child process; ``name`` and ``weights_name``: what messages call it, and the file of weights.

    Raises InvalidModel if it is refused, and UnfinishedReading if reading it exceeds a limit.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-model-") as folder:
        command = [
            *(sys.executable, "-I", "-m", "nas.models.reading.child", folder),
            *("--memory-bytes", str(limits.memory_bytes), "--file-bytes", str(limits.file_bytes)),
            *("--time-s", str(limits.time_s)),
        ]
        try:
            ended = subprocess.run(
                command,
                input=_REQUEST.dump_json(request).decode(),
                capture_output=True,
                text=True,
                check=False,
                timeout=limits.time_s,
            )
        except subprocess.TimeoutExpired:
            raise UnfinishedReading(f"{name}: expected it to be read within {limits.time_s:g} s, got no end") from None
        message = ended.stderr.strip()
        if ended.returncode == _REFUSED:
            raise InvalidModel(f"{name}: {message}")
        if ended.returncode == _REFUSED_WEIGHTS:
            raise InvalidModel(f"{weights_name or 'weights'}: {message.removeprefix('weights: ')}")
        if ended.returncode != 0:
            lines = message.splitlines()
            last = lines[-1] if lines else f"exit status {ended.returncode}"
            raise UnfinishedReading(
                f"{name}: expected a file that can be read with {limits.memory_bytes:,} bytes of memory in "
                f"{limits.time_s:g} s, got: {last}"
            )
        return _load(Path(folder))


def _load(folder: Path) -> ReadModel:
    graph = ModelGraph.from_json((folder / "graph.json").read_bytes())
    weights = safetensors.numpy.load((folder / "weights.safetensors").read_bytes())
    check_weights(graph, weights)
    result = _RESULT.validate_json((folder / "result.json").read_bytes())
    return ReadModel(graph, weights, preprocessing=result.preprocessing, warnings=result.warnings)


def check_file(path: Path, limits: ReadLimits) -> None:
    """Raises InvalidModel for a path that is no file of a known kind, or a larger one than allowed."""
    if not path.is_file():
        raise InvalidModel(f"{path}: expected a file, got none")
    if path.suffix not in _readers():
        suffixes = " or ".join(_readers())
        hint = PICKLED_HINT if path.suffix in PICKLE_SUFFIXES else ""
        raise InvalidModel(
            f"{path.name}: expected a file of the kind {suffixes}, got {path.suffix or 'no suffix'}{hint}"
        )
    if (size := path.stat().st_size) > limits.file_bytes:
        raise InvalidModel(f"{path.name}: expected at most {limits.file_bytes:,} bytes, got {size:,}")


def _readers() -> Mapping[str, Callable[[Path, int], ReadModel]]:
    from nas.models.reading.exported import read_exported
    from nas.models.reading.onnx_model import read_onnx

    return {".pt2": read_exported, ".onnx": read_onnx}


def _read(request: ReadRequest, folder: Path, max_bytes: int) -> ReadModel:
    """In the child: the model with its own weights."""
    if request.file is not None:
        model = _readers()[request.file.suffix](request.file, max_bytes)
    else:
        from nas.models.reading.exported import read_exported
        from nas.models.source_code import export_packaged, export_timm

        program, preprocessing = folder / "program.pt2", None
        if request.timm is not None:
            preprocessing = export_timm(request.timm, request.pretrained, program)
        else:
            export_packaged(request.package or "", program)
        model = replace(read_exported(program, max_bytes), preprocessing=preprocessing)
    return model


def _with_weights(model: ReadModel, path: Path) -> ReadModel:
    """In the child: the model with the tensors of a file."""
    from nas.models.reading.weights import read_weights, with_weights

    return with_weights(model, read_weights(path))


def check_finite(model: ReadModel) -> None:
    """Raises InvalidModel for a parameter that is no number, and for one that is trained and infinite; constants may be
    infinite, as masks of attention are."""
    learned = {value.name for value in model.graph.learned}
    for name, array in model.weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and (np.isnan(array).any() or name in learned):
            count = int((~np.isfinite(array)).sum())
            raise InvalidModel(f"{name}: expected finite numbers, got {count} of {array.size} that are none")


def main() -> int:
    """The child: read the model, write graph and weights into the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, required=True)
    parser.add_argument("--time-s", type=float, required=True)
    arguments = parser.parse_args()
    request = _REQUEST.validate_json(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (arguments.memory_bytes, arguments.memory_bytes))
    seconds = int(arguments.time_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = _REFUSED
    try:
        model = _read(request, arguments.folder, arguments.file_bytes)
        if request.weights is not None:
            status = _REFUSED_WEIGHTS
            model = _with_weights(model, request.weights)
        check_finite(model)
    except InvalidModel as error:
        sys.stderr.write(f"{error}\n")
        return status
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        sys.stderr.write(f"expected a model whose contents fit together, got {type(error).__name__}: {error}\n")
        return status
    except MemoryError:
        sys.stderr.write(f"expected a file that can be read within {arguments.memory_bytes:,} bytes of memory\n")
        return _UNFINISHED
    (arguments.folder / "graph.json").write_bytes(model.graph.to_json())
    (arguments.folder / "weights.safetensors").write_bytes(safetensors.numpy.save(model.weights))
    (arguments.folder / "result.json").write_bytes(_RESULT.dump_json(_ChildResult(model.preprocessing, model.warnings)))
    return 0


_REQUEST = TypeAdapter(ReadRequest)
_RESULT = TypeAdapter(_ChildResult)

if __name__ == "__main__":
    sys.exit(main())

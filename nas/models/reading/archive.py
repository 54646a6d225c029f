"""The archive of a ``torch.export`` program (``.pt2``): a zip file of JSON and raw tensors, read without torch.

Nothing is unpickled: ``torch.export.load`` would unpickle custom objects, tensors stored with ``use_pickle`` and sample
inputs, and evaluate texts of symbolic expressions. This reader opens the JSON files and raw tensors alone. An archive
that holds anything else that ``torch.export.load`` would execute is refused.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.json_types import JsonObject
from nas.models.graph import InvalidModel

TORCH_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
"""Data types by their numbers in the format."""
_BFLOAT16 = 13
SCHEMA_MAJOR = 8
_MODEL = re.compile(r"models/[^/]+\.json")
_IGNORED = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[^/]+|\.format_version|\.storage_alignment"
    r"|data/sample_inputs/[^/]+\.pt|data/aotinductor/[^/]*\.txt"
)
_READ = re.compile(
    r"models/[^/]+\.json|data/(weights|constants)/[^/]+_config\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
)


class ExportArchive:
    """An opened archive. Raises InvalidModel for files that are none, and for members that have no place in it."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InvalidModel(f"expected an archive of torch.export, got a file that is none: {error}") from None
        members = [info for info in self._zip.infolist() if not info.is_dir()]
        roots = {info.filename.partition("/")[0] for info in members}
        if len(roots) != 1:
            raise InvalidModel(f"expected an archive with one folder, got {len(roots)}")
        self._root = roots.pop()
        if (total := sum(info.file_size for info in members)) > max_bytes:
            raise InvalidModel(f"expected at most {max_bytes:,} bytes in the archive, got {total:,}")
        for info in sorted(members, key=lambda info: "/code/" not in info.filename):  # what a file is comes first
            self._check_member(info)
        self._names = {info.filename.partition("/")[2] for info in members}

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.partition("/")[2]
        if info.filename == f"{self._root}/data.pkl" or name == "data.pkl":
            raise InvalidModel("expected a program of torch.export, got a pickle of torch.save: it is not opened")
        if name.startswith("code/") or name == "constants.pkl":
            raise InvalidModel(
                "expected a program of torch.export, got TorchScript: export the model with torch.export"
            )
        if "custom_obj" in name or "opaque_obj" in name:
            raise InvalidModel(f"expected no custom objects in the archive, got {name!r}: it is not opened")
        if not (_READ.fullmatch(name) or _IGNORED.fullmatch(name)):
            raise InvalidModel(f"expected JSON and raw tensors in the archive, got {name!r}: it is not opened")
        if info.compress_type != zipfile.ZIP_STORED:
            raise InvalidModel(f"expected {name!r} to be stored as it is, got it compressed")

    def program(self) -> JsonObject:
        """The JSON of its only program."""
        models = sorted(name for name in self._names if _MODEL.fullmatch(name))
        if len(models) != 1:
            raise InvalidModel(f"expected one program in the archive, got {len(models)}")
        program = self._json(models[0])
        version = program.get("schema_version", {}).get("major")
        if version != SCHEMA_MAJOR:
            raise InvalidModel(f"expected version {SCHEMA_MAJOR} of the format of torch.export, got {version}")
        return program

    def tensors(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """All parameters, buffers and constants, floating point as float32; and names of those that another shares its
        tensor with, by that other's name."""
        arrays: dict[str, NDArray[Any]] = {}
        shared: dict[str, str] = {}
        sources: dict[str, str] = {}
        for folder in ("weights", "constants"):
            for config_name in sorted(n for n in self._names if re.fullmatch(rf"data/{folder}/[^/]+_config\.json", n)):
                for name, payload in self._json(config_name)["config"].items():
                    source = json.dumps([folder, payload["path_name"], payload["tensor_meta"]], sort_keys=True)
                    if source in sources:
                        shared[name] = sources[source]
                    else:
                        sources[source] = name
                        arrays[name] = self._tensor(name, folder, payload)
        return arrays, shared

    def _json(self, name: str) -> JsonObject:
        try:
            content = json.loads(self._bytes(name))
        except (ValueError, RecursionError) as error:
            raise InvalidModel(f"expected JSON in {name!r}, got something else: {error}") from None
        if not isinstance(content, dict):
            raise InvalidModel(f"expected an object in {name!r}, got {type(content).__name__}")
        return content

    def _bytes(self, name: str) -> bytes:
        if name not in self._names:
            raise InvalidModel(f"expected {name!r} in the archive, got nothing")
        try:
            return self._zip.read(f"{self._root}/{name}")
        except (zipfile.BadZipFile, EOFError) as error:
            raise InvalidModel(f"expected {name!r} as it was written, got a damaged archive: {error}") from None

    def _tensor(self, name: str, folder: str, payload: JsonObject) -> NDArray[Any]:
        if payload.get("use_pickle"):
            raise InvalidModel(f"expected the raw values of {name!r}, got a pickle: it is not opened")
        meta = payload["tensor_meta"]
        if meta["dtype"] == _BFLOAT16:
            raw = np.frombuffer(self._bytes(f"data/{folder}/{payload['path_name']}"), dtype="<u2")
            values = (raw.astype(np.uint32) << 16).view(np.float32)
        elif meta["dtype"] in TORCH_TYPES:
            values = np.frombuffer(
                self._bytes(f"data/{folder}/{payload['path_name']}"), dtype=TORCH_TYPES[meta["dtype"]]
            )
        else:
            raise InvalidModel(f"{name}: expected real numbers, got the data type {meta['dtype']} of torch.export")
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        array = _strided(name, values, sizes, strides, meta["storage_offset"]["as_int"])
        return array.astype(np.float32) if array.dtype.kind == "f" else array


def _strided(name: str, values: NDArray[Any], sizes: list[int], strides: list[int], offset: int) -> NDArray[Any]:
    if math.prod(sizes) == 0:
        return np.zeros(sizes, dtype=values.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min((offset, *strides, *sizes), default=0) < 0 or last >= len(values):
        raise InvalidModel(f"{name}: expected {last + 1} stored values, got {len(values)}")
    strides_bytes = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], sizes, strides_bytes, writeable=False).copy()

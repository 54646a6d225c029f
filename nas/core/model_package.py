"""An exported model as a zip file on disk, for programs that hand it on."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.core.errors import InvalidInput
from nas.core.json_types import JsonObject

FORMAT = "hwnas model package"


@dataclass(frozen=True)
class ModelPackage:
    """The manifest and the files of a package, by name."""

    manifest: JsonObject
    files: Mapping[str, bytes]

    @staticmethod
    def read(path: Path) -> ModelPackage:
        """The package in a zip file. Raises InvalidInput for a file that is none."""
        try:
            return ModelPackage.unzip(path.read_bytes(), str(path))
        except OSError as error:
            raise InvalidInput(
                f"{path}: expected the zip file of an exported model: {error.strerror or error}"
            ) from error

    @staticmethod
    def unzip(archive: bytes, label: str) -> ModelPackage:
        """The package in the bytes of a zip file, which errors call by its label. Raises InvalidInput for other
        bytes."""
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as opened:
                files = {name: opened.read(name) for name in opened.namelist()}
            manifest = json.loads(files["manifest.json"])
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise InvalidInput(
                f"{label}: expected the zip file of an exported model, with a manifest: {error}"
            ) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InvalidInput(f"{label}: expected the zip file of a model that hwnas exported")
        return ModelPackage(manifest, files)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, empty for tasks without."""
        return list(self.manifest["preprocessing"]["class_names"])

    @property
    def values(self) -> dict[str, float]:
        """The metrics, by name."""
        return {name: float(metric["value"]) for name, metric in self.manifest["metrics"].items()}

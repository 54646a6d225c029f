"""Where the images of a data set lie while a search uses them: in memory, or prepared on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from nas.core import registry
from nas.core.errors import InvalidSpec, StorageError
from nas.core.json_types import JsonObject
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset
from nas.core.records import RecordSource, Storage
from nas.core.spec import DataSpec, parse_spec
from nas.core.tasks import load_task
from nas.datasets.cache import cache_folder, copy_in_use, fingerprint, is_url
from nas.datasets.cache_entries import CacheUse, limit_bytes, make_room, size_below
from nas.datasets.images import SizeParams
from nas.datasets.prepared.loading import prepared_dataset
from nas.datasets.prepared.prepare import (
    PreparedManifest,
    PreparingProgress,
    WriteShards,
    folder_name,
    needed_bytes,
    prepare,
    read_manifest,
    write_here,
)
from nas.datasets.prepared.shards import write_durably
from nas.datasets.splits import existing_path

MEMORY_BYTES = 16 * 2**20  # pixels of a data set that is read into memory
DECODED_BYTES = 8 * 2**30  # pixels of a data set that are prepared as pixels; images of a larger one stay encoded
Place = Literal["memory", "decoded", "encoded"]


@dataclass(frozen=True)
class Preparation:
    """How data sets are prepared on a machine: below the folder ``cache``, by ``write``, and read by ``threads``."""

    cache: Path = field(default_factory=cache_folder)
    write: WriteShards = write_here
    threads: int = 1


@dataclass(frozen=True)
class PreparedFolder:
    """Where a data set is prepared, or will be from its ``source``; one of both is None: the ``manifest`` until it is
    whole, the source, which takes time to list, from then on."""

    path: Path
    storage: Storage
    params: SizeParams
    manifest: PreparedManifest | None = None
    source: RecordSource | None = None


@dataclass(frozen=True)
class _PreparedNote:
    """Where the data set that a spec names was prepared, from the files as they are."""

    folder: str
    storage: Storage


_NOTE = TypeAdapter(_PreparedNote)


def load_data(spec: DataSpec, preparation: Preparation | None = None) -> Dataset:
    """The data set that a spec names, prepared before where it is large. Raises as ``loading`` does."""
    steps = loading(spec, preparation or Preparation())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            dataset: Dataset = end.value
            return dataset


def loading(spec: DataSpec, preparation: Preparation) -> Generator[PreparingProgress, None, Dataset]:
    """Prepare the data set that a spec names where it is large and was not prepared yet; returns the data set.

    Raises InvalidSpec, InvalidData and DataChanged for what is wrong with it, StorageError where preparing it takes
    more room than there is.
    """
    dataset_type = registry.load_dataset(spec.name)
    with copy_in_use(spec.path):
        place = locate(spec, dataset_type, preparation.cache)
        if place is None:
            return dataset_type.load(spec, spec.seed)
        with CacheUse(place.path, f"{spec.name} {spec.path}"):
            if place.source is None and read_manifest(place.path) is None:  # deleted before it was in use
                place = locate(spec, dataset_type, preparation.cache) or place
            return (yield from _loading(spec, place, preparation))


def _loading(
    spec: DataSpec, place: PreparedFolder, preparation: Preparation
) -> Generator[PreparingProgress, None, Dataset]:
    """The data set of a place, which is in use."""
    manifest = place.manifest
    if place.source is not None:
        _make_room(place, preparation.cache)
        source_fingerprint = fingerprint(existing_path(spec))

        def still_the_same() -> bool:
            return fingerprint(existing_path(spec)) == source_fingerprint

        yield from prepare(place.source, place.storage, place.path, preparation.write, still_the_same)
        note = _NOTE.dump_json(_PreparedNote(place.path.name, place.storage))
        write_durably(_note_path(spec, place.params, source_fingerprint, preparation.cache), note)
        manifest = read_manifest(place.path)
    if manifest is None:
        raise StorageError(f"{place.path}: the data set that was just prepared there has vanished")
    return prepared_dataset(place.path, manifest, spec, place.params, spec.seed, preparation.threads)


def _make_room(place: PreparedFolder, cache: Path) -> None:
    """Raises StorageError where the cache may not take what is missing of a data set."""
    limit = limit_bytes()
    if limit is not None and place.source is not None:
        missing_bytes = needed_bytes(place.source, place.storage) - size_below(place.path)
        make_room(cache, limit, max(0, missing_bytes))


def locate(spec: DataSpec, dataset_type: DatasetType, cache: Path) -> PreparedFolder | None:
    """Where a data set is prepared, or will be; None for one that is read into memory.

    Raises InvalidSpec for a storage that its task or its kind does not have, and InvalidData.
    """
    params = _params(spec, dataset_type)
    if dataset_type.records is None or params is None or params.storage == "memory" or spec.path is None:
        return None
    if load_task(spec.task).labels == "mask":
        if params.storage != "auto":
            raise InvalidSpec(f"storage: data with masks are read into memory: expected auto, got {params.storage}")
        return None
    files = fingerprint(existing_path(spec))
    prepared = _noted(_note_path(spec, params, files, cache), cache, params)
    if prepared is not None:
        return prepared
    source = dataset_type.records(spec)
    storage = choose_storage(source, params)
    if storage == "memory":
        return None
    path = cache / "prepared" / folder_name(files, storage, _how_read(spec, params))
    return PreparedFolder(path, storage, params, source=source)


@dataclass(frozen=True)
class WholeFolder:
    """A data set that is prepared and whole."""

    path: Path
    manifest: PreparedManifest
    params: SizeParams


def find_prepared(spec: DataSpec, dataset_type: DatasetType, cache: Path) -> WholeFolder | None:
    """The data set of a spec as it was prepared on this machine from the files as they are now; None if it was not."""
    params = _params(spec, dataset_type)
    if params is None or spec.path is None or is_url(spec.path):
        return None
    prepared = _noted(_note_path(spec, params, fingerprint(existing_path(spec)), cache), cache, params)
    if prepared is None or prepared.manifest is None:
        return None
    return WholeFolder(prepared.path, prepared.manifest, params)


def _noted(path: Path, cache: Path, params: SizeParams) -> PreparedFolder | None:
    """The data set that a note says was prepared, if it is still whole."""
    try:
        note = _NOTE.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    folder = cache / "prepared" / note.folder
    manifest = read_manifest(folder)
    return PreparedFolder(folder, note.storage, params, manifest) if manifest is not None else None


def _note_path(spec: DataSpec, params: SizeParams, files: str, cache: Path) -> Path:
    request_json = json.dumps([files, params.storage, _how_read(spec, params)], sort_keys=True)
    return cache / "notes" / f"{hashlib.sha256(request_json.encode()).hexdigest()[:32]}.json"


def _how_read(spec: DataSpec, params: SizeParams) -> JsonObject:
    return {**params.model_dump(mode="json", exclude=_AFTERWARDS), "kind": spec.name, "task": spec.task}


_AFTERWARDS = {  # parameters that change nothing of what is written
    "val_fraction",
    "test_fraction",
    "max_train",
    "max_val",
    "max_test",
    "flip",
    "class_weights",
    "storage",
    "skip_unreadable",
    "crop_area",
    "eval_crop",
}


def choose_storage(source: RecordSource, params: SizeParams) -> Place:
    """Where the images lie by their size, unless the parameters say it. Raises InvalidSpec for encoded images of no
    ``image_size``."""
    if params.storage == "encoded" and params.image_size is None:
        raise InvalidSpec(
            "storage: images that stay encoded are scaled when they are read: expected image_size, got none"
        )
    if params.storage != "auto":
        return params.storage
    size_bytes = needed_bytes(source, "decoded")
    if size_bytes <= MEMORY_BYTES:
        return "memory"
    scaled = params.image_size is not None and source.packed_bytes > 0
    return "encoded" if size_bytes > DECODED_BYTES and scaled else "decoded"


def _params(spec: DataSpec, dataset_type: DatasetType) -> SizeParams | None:
    model = dataset_type.params_model
    if model is None or not issubclass(model, SizeParams):
        return None
    return parse_spec(model, spec.params)

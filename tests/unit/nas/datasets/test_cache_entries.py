"""Room in the cache of data sets: the least recently used go first, never one that is in use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from nas.core.errors import InvalidInput, StorageError
from nas.datasets import cache
from nas.datasets.cache_entries import CacheUse, cache_entries, delete_unused, limit_bytes, make_room
from nas.datasets.prepared.images import PreparedImages
from nas.datasets.storage import Preparation, load_data
from tests.support.image_files import colour_folder, with_params


def entry(folder: Path, name: str, size: int, used_at: float) -> Path:
    path = folder / "prepared" / name
    path.mkdir(parents=True)
    (path / "shard").write_bytes(bytes(size))
    with CacheUse(path, f"folder /{name}"):
        pass
    os.utime(path.with_name(f"{name}.lock"), (used_at, used_at))
    return path


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    paths = [entry(tmp_path, name, 1000, used_at) for name, used_at in (("b", 20.0), ("a", 30.0), ("c", 10.0))]
    listed = cache_entries(tmp_path)
    assert [(e.kind, e.source, e.size_bytes, e.used_at, e.in_use) for e in listed] == [
        ("prepared", "folder /c", 1000, 10.0, False),
        ("prepared", "folder /b", 1000, 20.0, False),
        ("prepared", "folder /a", 1000, 30.0, False),
    ]
    assert make_room(tmp_path, 3000) == []
    assert [e.path.name for e in make_room(tmp_path, 3000, needed_bytes=1500)] == ["c", "b"]
    assert [path.exists() for path in paths] == [False, True, False]
    with CacheUse(paths[1]):
        assert cache_entries(tmp_path)[0].used_at > 1e9


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    old, new = entry(tmp_path, "old", 1000, 10.0), entry(tmp_path, "new", 1000, 20.0)
    with CacheUse(old):
        assert [e.in_use for e in cache_entries(tmp_path)] == [False, True]  # the old one is now the latest
        assert not delete_unused(cache_entries(tmp_path)[1])
        with pytest.raises(StorageError, match="GB are in use: raise HWNAS_DATA_CACHE_GB"):
            make_room(tmp_path, 2000, needed_bytes=1500)
        assert old.exists()
        assert new.exists()
        assert [e.path for e in make_room(tmp_path, 0)] == [new]
    assert [e.path for e in make_room(tmp_path, 0)] == [old]


def test_a_process_that_dies_frees_its_lock(tmp_path: Path) -> None:
    path = entry(tmp_path, "a", 10, 1.0)
    script = (
        "import pathlib, sys, time\nfrom nas.datasets.cache_entries import CacheUse\n"
        "use = CacheUse(pathlib.Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert make_room(tmp_path, 0) == []
        process.kill()
        process.wait()
    assert [e.path for e in make_room(tmp_path, 0)] == [path]


def test_prepared_images_are_in_use_until_nothing_reads_them(tmp_path: Path) -> None:
    spec = with_params(colour_folder(tmp_path / "images"), storage="decoded")
    data = load_data(spec, Preparation(tmp_path / "cache"))
    [prepared] = cache_entries(tmp_path / "cache")
    assert prepared.in_use
    assert prepared.source == f"folder {tmp_path / 'images'}"
    images = pickle.dumps(data.train.images_NCHW)
    del data
    assert not cache_entries(tmp_path / "cache")[0].in_use
    elsewhere = pickle.loads(images)  # as by another rank
    assert isinstance(elsewhere, PreparedImages)
    assert cache_entries(tmp_path / "cache")[0].in_use
    del elsewhere
    [deleted] = make_room(tmp_path / "cache", 0)
    assert not deleted.path.exists()
    again = load_data(spec, Preparation(tmp_path / "cache"))
    assert len(again.train) == 16


def test_preparing_makes_room_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", str(tmp_path / "cache"))
    specs = [with_params(colour_folder(tmp_path / name), storage="decoded") for name in ("a", "b", "c")]
    for spec in specs[:2]:
        load_data(spec)
    size_bytes = max(e.size_bytes for e in cache_entries(tmp_path / "cache"))
    monkeypatch.setenv("HWNAS_DATA_CACHE_GB", str((2 * size_bytes + 4_000) / 1e9))  # 24 images have 4,608 pixels
    in_use = load_data(specs[2])
    remaining = [e.source for e in cache_entries(tmp_path / "cache")]
    assert remaining == [f"folder {tmp_path / 'b'}", f"folder {tmp_path / 'c'}"]
    monkeypatch.setenv("HWNAS_DATA_CACHE_GB", str((size_bytes + 4_000) / 1e9))
    with pytest.raises(StorageError, match="raise HWNAS_DATA_CACHE_GB"):
        load_data(specs[0])
    assert len(in_use.train) == 16


def test_copies_of_remote_files_give_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", str(tmp_path / "cache"))
    colour_folder(tmp_path / "images")
    url = f"local://{tmp_path / 'images'}"
    copy = cache.local_copy(url)
    [listed] = cache_entries(tmp_path / "cache")
    assert (listed.kind, listed.path, listed.source, listed.in_use) == ("copies", copy, url, False)
    with cache.copy_in_use(url):
        assert make_room(tmp_path / "cache", 0) == []
    assert len(make_room(tmp_path / "cache", 0)) == 1
    assert not copy.exists()


def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit_bytes() is None
    monkeypatch.setenv("HWNAS_DATA_CACHE_GB", "1.5")
    assert limit_bytes() == 1_500_000_000
    monkeypatch.setenv("HWNAS_DATA_CACHE_GB", "much")
    with pytest.raises(InvalidInput, match="expected a number of GB, got 'much'"):
        limit_bytes()

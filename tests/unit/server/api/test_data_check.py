"""Data sets of specs are checked in processes of their own, once for each state of their files."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nas.core.errors import InvalidData, UnknownName
from nas.core.spec import DataSpec
from server.api import data_check
from server.api.data_check import report_of, shape_of
from tests.support.image_files import colour_folder, random_images, with_params


def test_report_of_a_folder(tmp_path: Path) -> None:
    report = report_of(colour_folder(tmp_path))
    report.require_usable()
    assert report.require_shape().classes == 2
    assert report.account is not None
    assert report.account.inputs == 24
    assert report.content_hash


def test_a_shape_needs_the_headers_only(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    (tmp_path / "dog" / "001.png").write_bytes(b"no image")
    assert shape_of(spec).classes == 2
    assert report_of(spec, headers_only=True).account is None
    assert report_of(spec).problems


def test_all_problems_reach_the_caller(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    for at in ("000", "002"):
        (tmp_path / "cat" / f"{at}.png").write_bytes(b"no image")
    report = report_of(spec)
    assert len(report.problems) == 2
    with pytest.raises(InvalidData, match="2 problems with the data"):
        report.require_usable()
    assert report.require_shape().classes == 2
    with pytest.raises(UnknownName, match="Did you mean 'image_size'"):
        report_of(with_params(spec, image_siz=3)).require_shape()


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = subprocess.run

    def counted(*args: object, **kwargs: object) -> object:
        runs.append(args)
        return real(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(data_check.subprocess, "run", counted)
    spec = colour_folder(tmp_path)
    first = report_of(spec)
    assert report_of(spec) is first
    assert len(runs) == 1
    (tmp_path / "cat" / "000.png").write_bytes((tmp_path / "cat" / "002.png").read_bytes())
    assert report_of(spec).content_hash != first.content_hash
    assert len(runs) == 2


def test_a_folder_of_too_many_files_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a home folder by mistake: it takes no longer, and a change is noticed a minute later."""
    spec = colour_folder(tmp_path)
    assert spec.path is not None
    monkeypatch.setattr(data_check, "MAX_ENTRIES", 3)
    walked = []
    files_below = lambda root: (walked.append(p) or p for p in Path(root).rglob("*.png"))  # noqa: E731
    monkeypatch.setattr(data_check, "files_below", files_below)
    minutes = iter([60.0, 119.0, 120.0])
    monkeypatch.setattr(data_check.time, "time", lambda: next(minutes))
    first, again, later = (data_check._fingerprint(Path(spec.path)) for _ in range(3))
    assert len(walked) == 3 * (3 + 1)
    assert first == again != later


def test_a_check_that_takes_too_long_tells_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "CHECK_SECONDS", 0.01)
    with pytest.raises(InvalidData, match="takes more than"):
        report_of(colour_folder(tmp_path)).require_shape()


def test_what_unpacks_to_gigabytes_is_refused_and_not_read_by_the_server(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(
        path, images=random_images(20)[..., 0], labels=np.broadcast_to(np.int64(0), (30_000_000,)).copy()
    )
    assert path.stat().st_size < 300_000
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = report_of(DataSpec(name="npz", path=str(path)))
    assert "expected at most 500 times its packed size" in report.problems[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_more_than_the_check_may_use_is_left_to_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "CHECK_BYTES", 400 * 2**20)
    path = tmp_path / "large.npz"
    np.savez(path, images=np.tile(random_images(4, side=256), (700, 1, 1, 1)), labels=np.arange(2800) % 2)
    report = report_of(DataSpec(name="npz", path=str(path)))
    report.require_usable()
    assert report.account is None
    assert report.require_shape().height == 256
    assert "memory" in report.incomplete


def test_data_without_files_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check.subprocess, "run", lambda *_, **__: pytest.fail("no process is needed"))
    assert report_of(DataSpec()).require_shape().classes == 10


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "data")
    (tmp_path / "data").chmod(0)
    with pytest.raises(InvalidData):
        report_of(spec).require_shape()

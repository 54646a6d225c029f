"""Cascades of exported models, as people make and run them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.cascade_package import make_cascade, read_packages
from nas.cascade_run import answer, load_members, prepare
from nas.core.cascades import CascadeReport
from nas.core.errors import InfeasibleBound, InvalidInput
from nas.core.ports import Problem
from nas.training import samplers
from server.cli.commands.cascade import report_lines
from tests.support.cascades import untrained_packages
from tests.support.engine import SPEC, problem


@pytest.fixture(scope="module")
def searched() -> Problem:
    torch.set_num_threads(1)
    return problem(SPEC.model_copy(update={"data": SPEC.data.model_copy(update={"params": {"max_train": 160}})}))


@pytest.fixture(scope="module")
def models(searched: Problem, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Exported networks at three sizes of images; they have learned nothing."""
    folder, ladder = tmp_path_factory.mktemp("models"), samplers.ladder(searched.space)
    paths = []
    for arch, archive in untrained_packages(searched, (ladder[0], ladder[1], ladder[-1])).items():
        paths.append(folder / f"{arch.id}.zip")
        paths[-1].write_bytes(archive)
    return paths


@pytest.fixture(scope="module")
def built(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CascadeReport]:
    packages, data = read_packages(models)
    archive, report = make_cascade(packages, data, within=100.0, most_members=2)
    folder = tmp_path_factory.mktemp("cascade")
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder)
    return folder, report


def test_a_cascade_runs_without_this_project(
    built: tuple[Path, CascadeReport], searched: Problem, tmp_path: Path
) -> None:
    folder, report = built
    images = searched.data.test.images_NCHW[:20]
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, str(folder / "run.py"), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    members = load_members(folder)
    expected = [answer(members, prepare(members, image)) for image in images]
    names = searched.data.class_names
    assert [(row[1], row[3]) for row in rows] == [(names[k], report.members[place]) for k, _, place in expected]
    for name in ("run.py", "member.py"):
        assert not re.search(r"^(from|import) nas", (folder / name).read_text(), re.MULTILINE)


def test_the_record_tells_what_was_fitted_and_measured(built: tuple[Path, CascadeReport], searched: Problem) -> None:
    folder, report = built
    record = json.loads((folder / "cascade.json").read_text())
    assert [m["name"] for m in record["members"]] == list(report.members)
    assert record["fitted_on"] == "validation images"
    assert record["members"][-1]["threshold"] == 0.0
    assert report.measured.images == report.single_measured.images == len(searched.data.test)
    assert sum(report.shares) == pytest.approx(1.0)
    assert report.saved_percent == pytest.approx(100 * (1 - report.measured.mean_ms / report.single_measured.mean_ms))
    members = load_members(folder)
    answers = [answer(members, prepare(members, image))[0] for image in searched.data.test.images_NCHW]
    assert report.test_accuracy == pytest.approx(100 * np.mean(np.array(answers) == searched.data.test.labels))
    assert any("test accuracy" in line for line in report_lines(report))


def test_a_changed_member_is_refused(built: tuple[Path, CascadeReport], tmp_path: Path) -> None:
    folder, _ = built
    for name in ("cascade.json", "member1.onnx", "member2.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "member2.onnx").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"member2\.onnx.*changed"):
        load_members(tmp_path)


def test_what_makes_no_cascade_is_refused(models: list[Path]) -> None:
    with pytest.raises(InvalidInput, match="expected a model, got none"):
        read_packages([])
    packages, data = read_packages(models)
    with pytest.raises(InvalidInput, match="at least 2 networks"):
        make_cascade(packages[:1], data)
    with pytest.raises(InfeasibleBound):
        make_cascade(packages, data, within=100.0, expected_ms=1e-9)

"""Exported models with an exit in their middle."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from nas import cascade_package, early_exits
from nas.cascade_run import answer, load_members, prepare
from nas.core import registry
from nas.core.arch import Arch
from nas.core.cascades import MemberOutputs, fit_pair
from nas.core.errors import InfeasibleBound, InvalidInput
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset, ImageShape
from nas.core.spec import SpaceSpec
from nas.early_exits import exit_classifier, exit_places, make_early_exit, split_at
from nas.export import open_session, to_onnx_for_timing
from tests.support.engine import SPEC, problem
from tests.support.packages import exported


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("space_name", "params"), [
    ("mobilenet_v3", {}), ("elastic_vit", {}), ("elastic_vit", {"pooling": "class"}), ("hybrid", {}), ("fbnet", {}),
    ("resnet", {}),
])  # fmt: skip
def test_both_halves_together_compute_what_the_model_computes(space_name: str, params: dict[str, Any]) -> None:
    space = registry.build_space(
        SpaceSpec(name=space_name, params={"preset": "digits", **params}), ImageShape(1, 8, 8, 10)
    )
    arch = Arch(space.id, tuple(len(d.choices) - 1 for d in space.decisions))
    model = onnx.load_model_from_string(to_onnx_for_timing(space.supernet(0).eval().subnet(arch), (1, 8, 8)))
    places = exit_places(model)
    assert len(places) >= 3
    assert len({place.name for place in places}) == len(places)
    x_NCHW = np.random.default_rng(0).uniform(0, 255, size=(3, 1, 8, 8)).astype(np.float32)
    [expected] = open_session(model.SerializeToString()).run(None, {"image": x_NCHW})
    for place in places:
        front, back = (open_session(half.SerializeToString()) for half in split_at(model, place))
        features, pooled_NC = front.run(["features", "pooled"], {"image": x_NCHW})
        np.testing.assert_allclose(back.run(None, {"features": features})[0], expected, rtol=1e-4, atol=1e-5)
        pixels = (2, 3) if place.rank == 4 else (1,)
        np.testing.assert_allclose(pooled_NC, features.mean(axis=pixels), rtol=1e-4, atol=1e-5)


def test_a_place_inside_of_a_skip_connection_is_none() -> None:
    space = registry.build_space(SpaceSpec(name="hybrid", params={"preset": "digits"}), ImageShape(1, 8, 8, 10))
    arch = Arch(space.id, tuple(len(d.choices) - 1 for d in space.decisions))
    model = onnx.load_model_from_string(to_onnx_for_timing(space.supernet(0).eval().subnet(arch), (1, 8, 8)))
    names = {place.name for place in exit_places(model, most=100)}
    behind = {node.output[0]: i for i, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        if node.op_type == "Add" and all(name in behind for name in node.input):
            first, last = sorted(behind[name] for name in node.input)
            assert not {n for n, i in behind.items() if first < i <= last} & names


def test_the_exits_classifier_separates_what_can_be_separated() -> None:
    generator = np.random.default_rng(0)
    for classes in (2, 4):
        label_N = np.arange(200) % classes
        pooled_NC = (3 * np.eye(classes, 6)[label_N] + generator.normal(0, 0.3, (200, 6)) + 50).astype(np.float32)
        weight_CK, bias_K = exit_classifier(pooled_NC, label_N, classes + 1)  # the last class has no image
        assert weight_CK.shape == (6, classes + 1)
        assert ((pooled_NC @ weight_CK + bias_K).argmax(1) == label_N).mean() > 0.95


def test_halves_stay_in_their_order_even_if_the_second_is_faster() -> None:
    label_N = np.array([0, 1, 0, 1])
    sure = MemberOutputs("exit", np.array([[9.0, 0], [0, 9], [0, 0.1], [0, 0.1]]), 3.0)
    right = MemberOutputs("rest", 9 * np.eye(2)[label_N], 1.0)
    front = fit_pair((sure, right), label_N)
    assert {fit.cascade.members for fit in front} == {(0, 1)}
    assert [(fit.outcome.accuracy, fit.outcome.expected_ms) for fit in front] == [(75.0, 3.0), (100.0, 3.5)]


class CountingSession:
    """A session by which time passes with the operators that it runs."""

    now_ms = 0.0

    def __init__(self, onnx_bytes: bytes) -> None:
        self.session = open_session(onnx_bytes)
        self.operators = len(onnx.load_model_from_string(onnx_bytes).graph.node)
        self.get_inputs = self.session.get_inputs

    def run(self, names: Any, feed: Any) -> Any:
        CountingSession.now_ms += self.operators
        return self.session.run(names, feed)


@pytest.fixture(scope="module")
def model() -> tuple[ModelPackage, Dataset]:
    """An exported network that has learned nothing, and its data."""
    data_spec = SPEC.data.model_copy(update={"params": {"max_train": 400}})
    searched = problem(SPEC.model_copy(update={"data": data_spec}))
    return exported(searched), searched.data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade_package, "open_session", CountingSession)


def clock() -> float:
    return CountingSession.now_ms / 1e3


def test_an_early_exit_runs_without_this_project(
    model: tuple[ModelPackage, Dataset], counted: None, tmp_path: Path
) -> None:
    downloaded, data = model
    archive, report = make_early_exit(downloaded, data, clock=clock)
    assert report.test_accuracy > report.single_test_accuracy + 5, "the exit has learned, the network has not"
    assert report.measured.mean_ms < report.single_measured.mean_ms
    assert report.members == (f"{report.single}, early exit", report.single)
    assert sum(report.shares) == pytest.approx(1.0)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(tmp_path / "exit")
    np.save(tmp_path / "images.npy", data.test.images_NCHW[:40])
    command = [sys.executable, str(tmp_path / "exit" / "run.py"), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    members = load_members(tmp_path / "exit")
    expected = [answer(members, prepare(members, image)) for image in data.test.images_NCHW[:40]]
    assert [(row[1], row[3]) for row in rows] == [
        (data.class_names[k], report.members[place]) for k, _, place in expected
    ]


def test_an_exit_that_saves_nothing_is_refused(model: tuple[ModelPackage, Dataset], counted: None) -> None:
    downloaded, data = model
    with pytest.raises(InfeasibleBound):
        make_early_exit(downloaded, data, expected_ms=1e-9, clock=clock)


def test_a_model_without_a_place_for_an_exit_is_refused(
    model: tuple[ModelPackage, Dataset], counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_exits, "exit_places", lambda model: [])
    with pytest.raises(InvalidInput, match="maps that all later layers depend on"):
        make_early_exit(*model, clock=clock)

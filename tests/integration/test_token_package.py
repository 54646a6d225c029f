"""Downloaded vision transformers with fewer tokens, as people make them."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
import torch

from nas.core.errors import InvalidInput
from nas.core.ports import Problem
from nas.core.spec import SpaceSpec
from nas.export import open_session
from search_spaces.elastic_vit.token_compression import RateRecipe
from search_spaces.elastic_vit.token_package import compress_tokens
from tests.support.engine import SPEC, problem
from tests.support.packages import exported


def searched_in(space: SpaceSpec) -> Problem:
    torch.set_num_threads(1)
    data = SPEC.data.model_copy(update={"params": {"max_train": 160}})
    return problem(SPEC.model_copy(update={"space": space, "data": data}))


def test_the_package_has_a_model_with_fewer_tokens() -> None:
    searched = searched_in(SpaceSpec(name="elastic_vit", params={"preset": "digits", "pooling": "class"}))
    downloaded = exported(searched)
    now_s = iter(range(1000))
    recipe = RateRecipe(epochs=10, batch_size=32, lr=0.1)
    archive, report = compress_tokens(
        downloaded, searched.spec, searched.data, 0.7, recipe=recipe, clock=lambda: float(next(now_s))
    )
    assert report.macs_share == pytest.approx(0.7, abs=0.07)
    assert report.ms == (1e3, 1e3)  # each run takes one tick of the clock
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        description = json.loads(files.read("architecture.json"))
        manifest = json.loads(files.read("manifest.json"))
        model = files.read("model.onnx")
    assert description["kept_tokens"] == [list(dataclasses.astuple(kept)) for kept in report.kept]
    assert description["kept_tokens"][0] == [17, 17]
    assert manifest["metrics"]["test_accuracy"]["value"] == report.accuracies[1]
    x_NCHW = np.random.default_rng(0).uniform(0, 255, (2, 1, 8, 8)).astype(np.float32)
    before, after = (
        open_session(onnx_bytes).run(None, {"image": x_NCHW})[0]
        for onnx_bytes in (downloaded.files["model.onnx"], model)
    )
    assert before.shape == after.shape
    assert not np.allclose(before, after)


def test_what_has_no_tokens_to_compress_is_refused() -> None:
    searched = searched_in(SpaceSpec(name="hybrid", params={"preset": "digits"}))
    downloaded = exported(searched)
    with pytest.raises(InvalidInput, match="expected a network of elastic_vit, got one of hybrid"):
        compress_tokens(downloaded, searched.spec, searched.data, 0.7)
    with pytest.raises(InvalidInput, match=r"share of MACs between 0 and 1, got 1\.2"):
        compress_tokens(downloaded, searched.spec, searched.data, 1.2)

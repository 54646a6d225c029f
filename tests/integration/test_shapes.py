"""Images that are not square: spaces take them or refuse them, and a search exports networks for them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, choice_counts
from nas.core.errors import InvalidSpec
from nas.core.events import fold_all
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import DataSpec, SpaceSpec
from nas.datasets.digits import DIGITS
from tests.support.engine import SPACE, SPEC, problem, run

pytestmark = pytest.mark.usefixtures("one_thread")

ANY_SHAPE = [name for name in registry.names("nas.search_spaces") if registry.load_space(name).any_shape]
SQUARE = sorted({*registry.names("nas.search_spaces")} - {*ANY_SHAPE})


def build(name: str, height: int, width: int) -> SearchSpace:
    return registry.build_space(SpaceSpec(name=name, params={"preset": "digits"}), ImageShape(1, height, width, 10))


def largest(space: SearchSpace) -> Arch:
    return Arch(space.id, tuple((choice_counts(space.decisions) - 1).tolist()))


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_networks_take_images_in_the_shape_of_the_data(name: str) -> None:
    square, wide = build(name, 8, 8), build(name, 8, 12)
    _, height, width = wide.input_shape(largest(wide))
    assert width == 1.5 * height
    assert square.id != wide.id
    net = wide.supernet(0).eval()
    x_BCHW = torch.zeros(2, 1, height, width)
    with torch.no_grad():
        assert net(x_BCHW, largest(wide)).shape == net.subnet(largest(wide))(x_BCHW).shape == (2, 10)
    genes_NG = np.array([largest(wide).genes])
    assert wide.costs(genes_NG)["params"] == square.costs(genes_NG)["params"]
    assert wide.costs(genes_NG)["macs"] > 1.3 * square.costs(genes_NG)["macs"]


@pytest.mark.parametrize("name", SQUARE)
def test_spaces_of_square_images_say_so(name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"expected square images, got 12x8 pixels.*mobilenet_v3"):
        build(name, 8, 12)


def test_networks_of_a_chain_do_not_depend_on_the_size_of_the_data_but_on_its_shape() -> None:
    assert build("mobilenet_v3", 8, 12).id == build("mobilenet_v3", 64, 96).id
    assert build("mobilenet_v3", 8, 8).id == build("mobilenet_v3", 32, 32).id
    with pytest.raises(InvalidSpec, match="resolution 4: expected a width of at least 4 pixels, got 2"):
        build("mobilenet_v3", 16, 8).costs(np.zeros((1, 31), dtype=np.int64))


@pytest.mark.slow
def test_search_over_wide_images_exports_networks_for_them(tmp_path: Path) -> None:
    digits = DIGITS.load(DataSpec(), 0)
    wide_NCHW = np.pad(digits.train.array_NCHW[:300], ((0, 0), (0, 0), (0, 0), (2, 2)))
    np.savez(tmp_path / "wide.npz", images=wide_NCHW, labels=digits.train.labels[:300])
    data = DataSpec(name="npz", path=str(tmp_path / "wide.npz"), params={"image_size": [8, 12]})
    spec = SPEC.model_copy(update={"data": data, "space": SpaceSpec(params={**SPACE, "resolutions": [6, 8]})})
    state = fold_all(run(tmp_path / "blobs", problem(spec)))
    blobs = FolderBlobs(tmp_path / "blobs")
    package = next(e for e in state.exports if e.name.endswith(".zip"))
    with zipfile.ZipFile(io.BytesIO(blobs.get(package.blob))) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    size = manifest["preprocessing"]["height"], manifest["preprocessing"]["width"]
    assert size in ((6, 9), (8, 12))

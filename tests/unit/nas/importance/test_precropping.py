"""PreCropping cuts widths to densities, whichever weights these leave."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from nas.importance.precropping import (
    DENSITIES,
    LayerSaliency,
    cropped_copies,
    densities,
    layer_saliencies,
    width_shares,
)
from tests.support.compressing import compress_problem
from tests.support.models import SIDE


def chain(*groups: str) -> list[LayerSaliency]:
    """A chain of layers of 100 weights each: the first reads the image, the last gives the classes."""
    ends = ["", *groups, ""]
    weights = np.arange(100.0)
    return [LayerSaliency(weights, tuple({group: 1.0} for group in pair if group)) for pair in pairwise(ends)]


@pytest.mark.parametrize("density", [0.5, 0.1])
def test_equal_densities_give_their_square_root_everywhere(density: float) -> None:
    layers = chain("a", "b", "c")
    assert width_shares(layers, [density] * 4) == pytest.approx(dict.fromkeys("abc", density**0.5))


def test_layers_have_the_densities_that_they_ask_for() -> None:
    layers = chain("a", "b")[1:2]  # between two groups
    shares = width_shares(layers, [0.2])
    assert shares["a"] * shares["b"] == pytest.approx(0.2, rel=1e-3)
    assert width_shares(chain("a"), [1.0, 1.0]) == pytest.approx({"a": 1.0})


def test_a_layer_of_salient_weights_stays_dense() -> None:
    layers = [LayerSaliency(np.linspace(0, 1, 50), ({"a": 1.0},)), LayerSaliency(np.linspace(0, 9, 50), ({"b": 1.0},))]
    of_first, of_second = densities(layers, 0.5)
    assert of_first <= 0.1 < 0.8 < of_second
    assert densities(layers, 1e-6) == [0.02, 0.02]  # one weight at least


def test_a_model_is_cropped_to_any_size() -> None:
    torch.set_num_threads(1)
    problem = compress_problem()
    space, net = problem.space, problem.space.supernet(0)
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    layers = layer_saliencies(net.graph, net.weights, net.analysis, images)
    parent_G = np.array(space.pretrained_genes)
    cropped_DG = cropped_copies(space.decisions, parent_G, layers)
    assert cropped_DG.shape == (len(DENSITIES), len(parent_G))
    axes = np.array([decision.axis for decision in space.decisions])
    assert (cropped_DG[:, axes != "width"] == parent_G[axes != "width"]).all()
    params_D = space.costs(cropped_DG)["params"]
    assert params_D[0] > 0.8 * space.costs(parent_G[None])["params"][0]
    assert (np.diff(params_D) <= 0).all()
    assert params_D[-1] == space.costs(np.where(axes == "width", 0, parent_G)[None])["params"][0]

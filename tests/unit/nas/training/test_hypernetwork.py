"""Architecture parameters from preference and device: trade-offs, devices, resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nas.core.arch import Floats, Genes
from nas.core.ports import ImageShape
from nas.training.gradient import operation_weights
from nas.training.gradient.hypernetwork import (
    ConditionedDevice,
    Conditioning,
    Hypernetwork,
    front_of_device,
    network_of,
    preference_within,
)
from nas.training.gradient.options import DartsParams
from search_spaces.nas_bench_201.cell import CONV1, CONV3, OPERATIONS
from search_spaces.nas_bench_201.space import build

SPACE = build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
GAIN_O = torch.tensor([-0.5, 0.0, 0.0, 0.1, 0.2])  # what an operation adds to the accuracy
OPTIONS = DartsParams.model_validate({"preset": "modnas", "latency_samples": 1, "hypernetwork_lr": 3e-3})


def device(name: str, **slow: float) -> ConditionedDevice:
    """Every operation takes 0.1, but those named."""
    ms_O = np.array([0.0, *(slow.get(o, 0.1) for o in OPERATIONS[1:])])

    def cost(genes_NG: Genes) -> Floats:
        return 1.0 + ms_O[genes_NG].sum(axis=1)

    return ConditionedDevice.of(SPACE, name, cost)


SLOW3 = device("slow3", nor_conv_3x3=2.0)
SLOW1 = device("slow1", nor_conv_1x1=2.0)


@pytest.fixture(scope="module")
def trained() -> Conditioning:
    """On an accuracy that is a sum over operations."""
    alphas = nn.Parameter(torch.zeros(6, 5))
    conditioning = Conditioning(SPACE, [SLOW3, SLOW1], alphas, OPTIONS, 0)
    generator = np.random.default_rng(0)
    mask = torch.ones(6, 5, dtype=torch.bool)
    for _ in range(400):
        conditioning.draw(generator)
        logits = alphas.detach().clone().requires_grad_()
        loss = -(operation_weights.softmax(logits, mask) * GAIN_O).sum()
        conditioning.learn(torch.autograd.grad(loss, logits)[0], generator)
    return conditioning


def test_both_ends_of_the_preference_give_different_networks(trained: Conditioning) -> None:
    """A conflict of two operations: accurate and slow against fast."""
    accurate, fast = (network_of(trained.net, SPACE, p, SLOW3) for p in (0.0, 1.0))
    assert (accurate == CONV3).sum() >= 5
    assert (fast == CONV3).sum() == 0


def test_latency_does_not_rise_along_the_preference(trained: Conditioning) -> None:
    latency_ms = SLOW3.cost(np.stack([network_of(trained.net, SPACE, p, SLOW3) for p in np.linspace(0, 1, 11)]))
    assert (np.diff(latency_ms) <= 1e-9).all()
    front = front_of_device(trained.net, SPACE, SLOW3)
    assert len(np.unique(front, axis=0)) == len(front) >= 2


def test_devices_have_networks_of_their_own(trained: Conditioning) -> None:
    """At the same preference each device avoids what is slow on it."""
    on_slow3, on_slow1 = (network_of(trained.net, SPACE, 0.7, d) for d in (SLOW3, SLOW1))
    assert (on_slow3 == CONV3).sum() < (on_slow1 == CONV3).sum()
    assert (on_slow1 == CONV1).sum() == 0


def test_a_bound_is_met_by_the_least_preference_that_does(trained: Conditioning) -> None:
    fast = SLOW3.cost(network_of(trained.net, SPACE, 1.0, SLOW3)[None])[0]
    preference = preference_within(trained.net, SPACE, SLOW3, lambda g: bool(SLOW3.cost(g[None])[0] <= fast))
    assert 0.0 < preference < 1.0
    assert preference_within(trained.net, SPACE, SLOW3, lambda g: False) == 0.0


def test_units_of_a_device_have_no_part_in_its_embedding() -> None:
    scaled = ConditionedDevice.of(SPACE, "scaled", lambda genes_NG: 1000.0 * SLOW3.cost(genes_NG))
    np.testing.assert_allclose(scaled.embedding_D, SLOW3.embedding_D)
    assert not np.allclose(SLOW1.embedding_D, SLOW3.embedding_D)
    assert scaled.reference == pytest.approx(1000.0 * SLOW3.reference)


def test_a_resumed_hypernetwork_goes_on_as_if_it_had_not_stopped(trained: Conditioning) -> None:
    def stepped(conditioning: Conditioning) -> torch.Tensor:
        generator = np.random.default_rng(5)
        conditioning.draw(generator)
        conditioning.learn(torch.ones(6, 5), generator)
        out: torch.Tensor = conditioning.net(0.5, SLOW1.embedding_D)
        return out

    resumed = []
    for seed in (1, 2):
        other = Conditioning(SPACE, [SLOW3, SLOW1], nn.Parameter(torch.zeros(6, 5)), OPTIONS, seed)
        other.load_tensors(copy.deepcopy(trained.tensors()))
        resumed.append(stepped(other))
    torch.testing.assert_close(resumed[0], resumed[1], rtol=0, atol=0)


def test_the_first_logits_are_nearly_equal() -> None:
    logits = Hypernetwork((6, 5), 0)(0.5, SLOW3.embedding_D).detach()
    assert logits.shape == (6, 5)
    assert float(logits.abs().max()) < 0.02


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"order": "one_level"}, "order first"),
        ({"latency_weight": 0.1}, "latency_weight 0"),
        ({"selection": "perturbation"}, "argmax"),
        ({"alpha_lr": 0.0}, "alpha_lr above 0"),
    ],
)
def test_what_one_network_needs_is_refused(option: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DartsParams.model_validate({"preset": "modnas", **option})

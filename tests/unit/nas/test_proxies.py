"""Zero-cost proxies against small networks whose scores can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.proxies import PROXIES, score


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def two_layers() -> nn.Module:
    return nn.Sequential(linear([[1.0, -2.0], [3.0, 4.0]]), nn.ReLU(), linear([[1.0, -1.0]]))


def small_net(width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 6, 6, generator=generator), torch.arange(n) % 4


def test_synflow_is_conserved_from_layer_to_layer() -> None:
    # |W1| ones = (3, 7), |W2| (3, 7) = 10, and every layer carries all of it.
    assert score("synflow", two_layers(), torch.ones(1, 2), torch.zeros(1)) == pytest.approx(math.log(20.0))


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaling_all_weights_of_a_two_layer_net(factor: float) -> None:
    x, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.long)
    net, scaled = two_layers(), two_layers()
    with torch.no_grad():
        for p in scaled.parameters():
            p.mul_(factor)
    expected = score("synflow", net, x, y) + 2 * math.log(factor)
    assert score("synflow", scaled, x, y) == pytest.approx(expected)
    assert score("naswot", scaled, x, y) == score("naswot", net, x, y)


def test_naswot_of_known_codes() -> None:
    net = nn.Sequential(nn.Identity(), nn.ReLU())
    different = torch.tensor([[1.0, 1.0, -1.0, 1.0], [1.0, -1.0, -1.0, 1.0]])
    assert score("naswot", net, different, torch.zeros(2)) == pytest.approx(math.log(7.0))
    assert score("naswot", net, different[[0, 0]], torch.zeros(2)) == -math.inf


def test_snip_is_what_the_loss_loses_with_a_masked_weight() -> None:
    net, (x, y) = small_net().double(), batch()
    x = x.double()
    expected = 0.0
    eps = 1e-6
    for p in [p for p in net.parameters() if p.dim() > 1]:
        for i in range(p.numel()):
            losses = []
            for mask in (1 + eps, 1 - eps):
                with torch.no_grad():
                    old = p.view(-1)[i].item()
                    p.view(-1)[i] = old * mask
                    losses.append(F.cross_entropy(net.train()(x), y).item())
                    p.view(-1)[i] = old
            expected += abs(losses[0] - losses[1]) / (2 * eps)
    assert score("snip", net, x, y) == pytest.approx(expected, rel=1e-4)


def test_jacob_cov_prefers_images_that_the_network_tells_apart() -> None:
    x, y = batch()
    net = small_net()
    assert score("jacob_cov", net, x, y) > score("jacob_cov", net, x[:1].repeat(8, 1, 1, 1) + 1e-3 * x, y)
    assert score("jacob_cov", nn.Sequential(nn.Flatten(), linear([[0.0] * 108])), x, y) == -math.inf


def test_near_counts_the_ranks_of_plain_matrices() -> None:
    net = nn.Sequential(nn.Identity(), nn.ReLU())
    # The identity of size 4 has effective rank 4 before and after; one repeated row has rank 1.
    assert score("near", net, torch.eye(4), torch.zeros(4)) == pytest.approx(8.0)
    assert score("near", net, torch.ones(4, 4), torch.zeros(4)) == pytest.approx(2.0)


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_a_proxy_leaves_the_network_as_it_was(name: str) -> None:
    net, (x, y) = small_net().train(), batch()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first = score(name, net, x, y)
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert net.training
    assert not net[1].training
    assert score(name, net, x, y) == first
    assert math.isfinite(first)


@pytest.mark.parametrize("name", ["synflow", "snip", "near", "zen"])
def test_a_wider_network_scores_higher(name: str) -> None:
    x, y = batch()
    assert score(name, small_net(32), x, y) > score(name, small_net(4), x, y)


def test_an_unknown_proxy_is_refused() -> None:
    with pytest.raises(KeyError, match="magic"):
        score("magic", small_net(), *batch())

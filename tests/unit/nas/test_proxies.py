"""Zero-cost proxies against small networks whose scores can be worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.proxies import PROXIES, score
from nas.proxies.blocks import block_outputs, gradient_passage, spectrum_entropy
from nas.proxies.fisher_spectrum import decile_entropy, fisher_information


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


# Blocks


class Block(nn.Module):
    """A part with a part of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.inner(x_BCHW)
        return out


def of_blocks(*inner: nn.Module) -> nn.Module:
    return nn.Sequential(*map(Block, inner), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_map_of_rank_one_has_no_entropy_and_independent_channels_have_the_most() -> None:
    rows = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    assert spectrum_entropy(rows * torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)) == pytest.approx(0.0, abs=1e-5)
    white = torch.randn(4, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    assert spectrum_entropy(white) == pytest.approx(math.log(3.0), abs=1e-3)


def test_a_block_that_passes_gradients_on_unscaled_is_trained_best() -> None:
    gradients = torch.randint(0, 2, (4, 6, 30, 30), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    rotated = torch.einsum("bchw,cd->bdhw", gradients, rotation)
    assert gradient_passage(rotated, gradients) == pytest.approx(0.0, abs=0.02)
    assert gradient_passage(5.0 * rotated, gradients) < -2.0
    assert gradient_passage(0.1 * rotated, gradients) < -5.0
    halved = torch.nn.functional.pixel_shuffle(gradients.repeat(1, 4, 1, 1) / 2.0, 2)  # of twice the height and width
    assert math.isfinite(gradient_passage(halved, gradients))


def test_a_block_that_does_nothing_cannot_be_trained() -> None:
    x, y = batch()
    assert score("trainability", of_blocks(nn.Conv2d(3, 6, 3), nn.Identity()), x, y) == -math.inf
    assert math.isfinite(score("trainability", of_blocks(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)), x, y))


def test_progress_is_the_smallest_step_of_expressivity() -> None:
    x, y = batch()
    entropies = [spectrum_entropy(m) for m in block_outputs(of_blocks(*three_convolutions()), x)]
    assert len(entropies) == 3
    assert score("expressivity", of_blocks(*three_convolutions()), x, y) == pytest.approx(sum(entropies))
    steps = [b - a for a, b in pairwise(entropies)]
    assert score("progressivity", of_blocks(*three_convolutions()), x, y) == pytest.approx(min(steps))


def three_convolutions() -> list[nn.Module]:
    return [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, 4), (4, 8), (8, 16))]


# Fisher information


def test_the_fisher_information_of_a_linear_model_is_known() -> None:
    """Of logits W x, d logits / d w_k is x in row k: F = mean x x' (x) C."""
    x_BI = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    jacobian = torch.einsum("kl,bi->bkli", torch.eye(3, dtype=torch.float64), x_BI).reshape(50, 3, 6)
    probability = torch.full((50, 3), 1 / 3, dtype=torch.float64)
    covariance = torch.eye(3, dtype=torch.float64) / 3 - 1 / 9
    expected = torch.kron(covariance, x_BI.T @ x_BI / 50)
    assert torch.allclose(fisher_information(jacobian, probability), expected)


def test_equal_eigenvalues_have_the_highest_entropy() -> None:
    assert decile_entropy(torch.eye(20, dtype=torch.float64)) == pytest.approx(math.log(9.0))
    assert decile_entropy(torch.diag(torch.linspace(0.0, 1.0, 20, dtype=torch.float64) ** 4)) < math.log(9.0) - 0.3
    assert decile_entropy(torch.zeros(4, 4, dtype=torch.float64)) == 0.0


def test_the_spectrum_of_a_network_is_between_its_limits() -> None:
    x, y = batch()
    assert 3.0 < score("fisher_spectrum", small_net(), x, y) <= 4.0  # of three tensors of weights

"""Fewer tokens from block to block: the definitions of DiffRate, and that what is learned is what is exported."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nas.core.arch import Arch
from nas.core.ports import ImageShape
from nas.export import to_onnx
from search_spaces.elastic_vit.network import VisionTransformer
from search_spaces.elastic_vit.space import build
from search_spaces.elastic_vit.token_compression import (
    CompressedVisionTransformer,
    KeptTokens,
    RateRecipe,
    RateSearch,
    RateSelector,
    attend_with_shares,
    compressed_block_macs,
    full_block_macs,
    importance_of,
    learned_rates,
    merge,
)
from search_spaces.layers.transformer import SelfAttention, TransformerBlock
from tests.support.parity import check_parity


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network_of(pooling: str = "class") -> VisionTransformer:
    """4 blocks that read 16 patches of 2x2 pixels."""
    space = build({"preset": "digits", "pooling": pooling}, ImageShape(1, 8, 8, 10))
    net = space.supernet(0).eval().subnet(Arch(space.id, tuple(len(d.choices) - 1 for d in space.decisions)))
    assert isinstance(net, VisionTransformer)
    return net


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_selector_keeps_the_mean_of_its_candidates_and_learns_by_it() -> None:
    selector = RateSelector(8, 1)
    assert selector.candidates_K.tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    kept = selector.kept()
    assert float(kept.detach()) == 5.0  # the mean is 4.5
    kept.backward()  # type: ignore[no-untyped-call]
    assert selector.logits_K.grad is not None
    assert selector.logits_K.grad.tolist() == pytest.approx([(c - 4.5) / 8 for c in range(8, 0, -1)])
    assert selector.survival(8).tolist() == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_the_class_token_stays_first() -> None:
    shares_BNN = torch.full((1, 4, 4), 0.0)
    shares_BNN[0, 0] = torch.tensor([0.7, 0.05, 0.15, 0.1])
    assert importance_of(shares_BNN, True).argsort(1, descending=True).tolist() == [[0, 2, 3, 1]]
    shares_BNN[0, 1:] = torch.tensor([0.0, 0.9, 0.1, 0.0])
    assert importance_of(shares_BNN, False).argmax(1).tolist() == [1]


def test_each_token_joins_the_one_that_is_most_alike() -> None:
    x_BNC = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.1, 4.0], [3.0, 0.0], [0.0, 4.0]]])
    merged_BKC, size_BK1 = merge(x_BNC, torch.ones(1, 5, 1), 2)
    torch.testing.assert_close(merged_BKC, torch.tensor([[[2.0, 0.0], [0.1 / 3, 10 / 3]]]))
    assert size_BK1.flatten().tolist() == [2.0, 3.0]
    masked, size_BK1 = merge(x_BNC, torch.tensor([1.0, 1, 0, 1, 0]).view(1, 5, 1), 2)
    torch.testing.assert_close(masked, torch.tensor([[[2.0, 0.0], [0.0, 2.0]]]))
    assert size_BK1.flatten().tolist() == [2.0, 1.0]


def test_a_token_that_stands_for_two_is_attended_to_as_two() -> None:
    attention = network_of().blocks[0].get_submodule("attn")
    assert isinstance(attention, SelfAttention)
    x_BNC = torch.randn(2, 5, 48)
    twice_BNC = torch.cat([x_BNC, x_BNC[:, -1:]], 1)
    expected, _ = attend_with_shares(attention, twice_BNC, torch.ones(2, 6), 6)
    y_BNC, shares_BNN = attend_with_shares(attention, x_BNC, torch.tensor([1.0, 1, 1, 1, 2]).expand(2, 5), 5)
    torch.testing.assert_close(y_BNC, expected[:, :5])
    torch.testing.assert_close(shares_BNN.sum(2), torch.ones(2, 5))


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_without_compression_nothing_changes(pooling: str) -> None:
    net = network_of(pooling)
    tokens = net.pos_embed.shape[1]
    compressed = CompressedVisionTransformer(net, [KeptTokens(tokens, tokens)] * 4).eval()
    torch.testing.assert_close(compressed(images()), net(images()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_masked_tokens_compute_what_removed_ones_do(pooling: str) -> None:
    search = RateSearch(network_of(pooling))
    with torch.no_grad():
        for first, selectors in ((1.0, search.prune), (0.5, search.merge)):
            for b, selector in enumerate(selectors):
                assert isinstance(selector, RateSelector)
                selector.logits_K.copy_(torch.linspace(first - b, b - first, 16))
    kept = search.kept()
    first, *numbers = [number for k in kept[1:] for number in (k.pruned, k.merged)]
    assert kept[0] == KeptTokens(search.tokens, search.tokens)
    assert search.tokens > first
    assert all(before > after for before, after in itertools.pairwise([first, *numbers]))
    logits_BK, macs = search(images())
    compressed = CompressedVisionTransformer(search.network, kept).eval()
    torch.testing.assert_close(compressed(images()), logits_BK, atol=1e-4, rtol=1e-4)
    assert float(macs.detach()) == pytest.approx(compressed_block_macs(search.network, kept))
    (logits_BK[:, 0].sum() + macs / 1e6).backward()
    learning = [*search.prune[:-1], *search.merge]  # nothing attends to what the last block prunes
    assert all(p.grad is not None and bool(p.grad.any()) for selector in learning for p in selector.parameters())


def test_the_exported_model_computes_what_the_network_computes() -> None:
    net = network_of()
    compressed = CompressedVisionTransformer(
        net, [KeptTokens(17, 17), KeptTokens(14, 12), KeptTokens(12, 9), KeptTokens(7, 7)]
    ).eval()
    x_NCHW = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    assert check_parity(to_onnx(compressed, (1, 8, 8)), compressed, x_NCHW) < 1e-4


def test_macs_are_those_of_the_paper() -> None:
    net = network_of()
    block = net.blocks[0]
    assert isinstance(block, TransformerBlock)
    n, c = 17, 48  # three heads of 16 channels, MLP of ratio 3
    attention, feed_forward = 4 * n * c**2 + 2 * n**2 * c, 2 * 3 * n * c**2
    assert float(full_block_macs(net)) == 4 * (attention + feed_forward)


@pytest.mark.slow
def test_rates_are_learned_until_the_bound_is_met() -> None:
    net = network_of()
    label_N = torch.arange(64) % 10
    recipe = RateRecipe(epochs=30, batch_size=16, lr=0.05)
    for share in (0.6, 0.8):
        kept = learned_rates(net, images(64), label_N, share, recipe, seed=0)
        reached = compressed_block_macs(net, kept) / float(full_block_macs(net))
        assert reached == pytest.approx(share, abs=0.05)
    assert learned_rates(net, images(64), label_N, share, recipe, seed=0) == kept

"""The relaxation of a chain of blocks: rows, columns, depths, and what the supernet makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.core.arch import Arch, Floats, Genes, as_archs
from nas.core.ports import ImageShape
from nas.spaces.chain_relaxation import SKIP
from nas.testing.search_spaces import check_mixing, check_relaxation
from nas.training.gradient import resource
from search_spaces.fbnet.space import build as build_fbnet
from search_spaces.layers.inverted_residual import activated, stage_blocks
from search_spaces.mobilenet_v3.space import MobileNetV3, build

SMALL: dict[str, Any] = {
    "resolutions": (8, 12),
    "stem": 8,
    "stem_stride": 1,
    "stages": [
        {"width": 8, "stride": 2, "act": "relu", "se": False},
        {"width": 16, "stride": 1, "act": "hswish", "se": True},
    ],
    "depths": (1, 2, 4),
    "kernels": (3, 5),
    "expands": (2, 4),
    "widths": (0.5, 1.0),
    "final": 16,
    "hidden": 16,
    "dropout": 0.0,
}


def small(**changes: Any) -> MobileNetV3:
    return build({**SMALL, **changes}, ImageShape(1, 8, 8, 4))


def scores_of(space: MobileNetV3, operations: dict[str, str], other: str = "kernel 3 expand 2") -> Floats:
    """The highest score for the named operation of each block, and for ``other`` in the others."""
    r = space.relaxation
    table = np.zeros(r.shape)
    for e, edge in enumerate(r.edges):
        table[e, r.operations.index(operations.get(edge, other))] = 1.0
    return table


def test_every_block_has_its_kernels_and_expansions_and_skips_where_a_stage_may_end() -> None:
    r = small().relaxation
    assert r.edges == tuple(f"stage{s}.block{b}" for s in (1, 2) for b in (1, 2, 3, 4))
    assert r.operations == tuple(f"kernel {k} expand {e}" for k in (3, 5) for e in (2, 4)) + (SKIP,)
    assert r.mask[:, :-1].all()
    # depths 1, 2, 4: the third and the fourth block only exist together
    assert r.mask[:, -1].tolist() == [False, True, True, False] * 2


def test_a_stage_ends_before_its_first_block_that_is_left_out() -> None:
    space = small()
    names = [d.name for d in space.decisions]
    genes = space.discretise(scores_of(space, {"stage1.block2": SKIP, "stage2.block3": SKIP}, "kernel 5 expand 4"))
    depth = {s: space.config.depths[genes[names.index(f"stage{s}.depth")]] for s in (1, 2)}
    assert depth == {1: 1, 2: 2}
    table = space.table(genes)
    r = space.relaxation
    operation_by_edge = {
        edge: r.operations[int(row.argmax())] for edge, row in zip(r.edges, table, strict=True) if row.any()
    }
    assert operation_by_edge == {
        "stage1.block1": "kernel 5 expand 4",
        "stage1.block2": SKIP,
        "stage2.block1": "kernel 5 expand 4",
        "stage2.block2": "kernel 5 expand 4",
        "stage2.block3": SKIP,
    }
    assert space.input_shape(Arch(space.id, tuple(genes.tolist()))) == (1, 8, 8)
    assert [genes[names.index(f"stage{s}.width")] for s in (1, 2)] == [1, 1]


def test_an_operation_that_a_block_lacks_is_never_chosen() -> None:
    space = small()
    skips = np.zeros(space.relaxation.shape)
    skips[:, -1] = 1.0
    genes = space.discretise(skips)
    assert [b for b in space.network(Arch(space.id, tuple(genes.tolist()))).blocks if ".block" in b] == [
        "stage1.block1",
        "stage2.block1",
    ]


def plain_mix(net: Any, space: MobileNetV3, x: torch.Tensor, weights_EO: torch.Tensor) -> torch.Tensor:
    """Every choice of every block computed by itself, with its residual connection, and the depth of a stage as that of
    a network drawn block by block."""
    by_operation = as_archs(space.id, space.chain_relaxation.by_operation())
    layers = [stage_blocks(space.network(arch)) for arch in by_operation]
    x, row = net._before_stages(x), 0
    for s, stage in enumerate(net.stages):
        reach = 1.0
        for b, block in enumerate(stage):
            total = 0.0
            for o, of_operation in enumerate(layers):
                choice = of_operation[s][b]
                residual = choice.project.residual is not None
                y = activated(block.expand_norm(block.expand(x, choice.inner)), block.act)
                y = activated(block.depthwise_norm(block.depthwise(y, choice.depthwise.kernel)), block.act)
                if block.se is not None:
                    y = block.se(y, choice.se.squeezed)
                y = F.batch_norm(block.project(y, choice.project.out_channels), None, None, training=True)
                total = total + weights_EO[row, o] * y
            x = x + reach * total if residual else total
            reach = reach * (1 - weights_EO[row, -1])
            row += 1
    return net._after_stages(x)


def test_shared_expansions_and_kernels_compute_the_plain_sum() -> None:
    space = small()
    net = space.supernet(0).double().train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    mask = torch.from_numpy(space.relaxation.mask)
    alphas = torch.randn(mask.shape, dtype=torch.float64, generator=generator).requires_grad_()
    outputs = []
    for mix in (net.mix, lambda x, w: plain_mix(net, space, x, w)):
        logits = mix(x, alphas.masked_fill(~mask, -torch.inf).softmax(1))
        learned = [alphas, *(p for block in net.stages[1] for p in (block.project.weight, block.depthwise.weight))]
        outputs.append([logits, *torch.autograd.grad(logits.logsumexp(1).sum(), learned)])
    for mixed, plain in zip(*outputs, strict=True):
        torch.testing.assert_close(mixed, plain, rtol=1e-9, atol=1e-11)


def test_blocks_behind_a_certain_skip_are_not_computed() -> None:
    space = small()
    net = space.supernet(0).train()
    table = torch.from_numpy(space.table(space.discretise(scores_of(space, {"stage1.block2": SKIP})))).float()
    loss = net.mix(torch.randn(4, 1, 8, 8), table, active_EO=table > 0).logsumexp(1).sum()
    loss.backward()
    assert [block.project.weight.grad is not None for block in net.stages[0]] == [True, False, False, False]


def test_tables_are_derived_together_as_one_by_one() -> None:
    space = small()
    scores_NEO = np.random.default_rng(0).gumbel(size=(64, *space.relaxation.shape))
    together = space.chain_relaxation.discretise_all(scores_NEO)
    assert (together == np.stack([space.discretise(scores) for scores in scores_NEO])).all()
    assert len(np.unique(together, axis=0)) > 50


@pytest.mark.parametrize("quantile", [0.02, 0.3])
def test_a_bound_is_met_within_the_relaxation(quantile: float) -> None:
    """A mended network has the resolution and the widths that were trained."""
    space = small()
    generator = np.random.default_rng(0)
    drawn_NG = space.chain_relaxation.discretise_all(generator.gumbel(size=(500, *space.relaxation.shape)))
    bound = float(np.quantile(space.costs(drawn_NG)["macs"], quantile))

    def broken(genes_NG: Genes) -> Floats:
        return np.maximum(0.0, space.costs(genes_NG)["macs"] / bound - 1.0)

    favourite = np.exp(3.0 * scores_of(space, {}, "kernel 5 expand 4")) * space.relaxation.mask
    genes = resource.within_bounds(space, broken, favourite, np.random.default_rng(1))
    assert space.costs(genes[None])["macs"][0] <= bound
    positions = [i for i, d in enumerate(space.decisions) if d.axis in ("resolution", "width")]
    assert genes[positions].tolist() == drawn_NG[0, positions].tolist()


def test_blocks_with_one_operation_of_several_are_relaxed_as_well() -> None:
    """FBNet: a skipped block leaves the others where they are."""
    space = build_fbnet({"preset": "digits"}, ImageShape(1, 8, 8, 4))
    assert space.relaxation.edges[0] == "stage1.block1"
    assert space.relaxation.operations[-1] == SKIP
    assert len(space.relaxation.operations) == 9
    check_relaxation(space)
    check_mixing(space)

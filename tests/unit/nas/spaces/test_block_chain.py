"""A space of a dozen lines on a chain of blocks: its tables, features and graph are those of its typed layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nas.core.arch import Decision, every
from nas.core.errors import InvalidInput
from nas.core.layers import INPUT, Conv2d, GlobalAveragePool, Linear, Pool2d
from nas.core.network import Network, NetworkNode
from nas.spaces.activation_memory import graph_peak
from nas.spaces.block_chain import BlockChain, ChainBlock
from nas.spaces.costs import COSTS, network_costs
from nas.spaces.exported_graph import exported_graph
from nas.spaces.layer_work import work_by_kind

WIDTHS = (8, 16)
DECISIONS = (Decision("width", WIDTHS), Decision("depth", (1, 2)), Decision("kernel", (3, 5)))
KINDS = ("dense", "depthwise3", "depthwise5", "linear")
IMAGE = (3, 9, 9)


def stem(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
    convolution = Conv2d("stem", (source,), IMAGE, WIDTHS[choices[0]], 3, activation="relu")
    return [convolution, Pool2d("stem.pool", ("stem",), convolution.out_shape, "max", 3, 2)]


def block(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
    channels, kernel = WIDTHS[choices[0]], (3, 5)[choices[1]]
    shape = (channels, 5, 5)
    depthwise = Conv2d(f"{name}.depthwise", (source,), shape, channels, kernel, groups=channels, activation="relu")
    return [depthwise, Conv2d(f"{name}.dense", (depthwise.name,), shape, channels, 3, residual=source)]


def head(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
    pool = GlobalAveragePool("pool", (source,), (WIDTHS[choices[0]], 5, 5))
    return [pool, Linear("classifier", ("pool",), pool.out_shape, 4)]


BLOCKS = (
    ChainBlock("stem", (0,), stem),
    ChainBlock("block1", (0, 2), block),
    ChainBlock("block2", (0, 2), block, required=(1, 1)),
    ChainBlock("head", (0,), head),
)
CHAIN = BlockChain(DECISIONS, BLOCKS, KINDS, image_channels=IMAGE[0])
GENES = every(DECISIONS)


def network(genes: list[int]) -> Network:
    return Network(IMAGE, CHAIN.nodes(genes))


def test_costs_of_populations_equal_those_of_single_networks() -> None:
    costs = CHAIN.costs(GENES)
    for i, genes in enumerate(GENES.tolist()):
        network(genes).check()
        assert network_costs(network(genes)) == tuple(costs[name][i] for name in COSTS)


def test_features_and_graph_hold_the_work_of_the_layers() -> None:
    features, encoding = CHAIN.features(GENES), CHAIN.graph_encoding
    work = np.array([work_by_kind(network(genes).layers, KINDS) for genes in GENES.tolist()])
    np.testing.assert_allclose(features, work[:, np.ptp(work, axis=0) > 0])
    columns = encoding.columns(GENES).reshape(len(GENES), len(BLOCKS), -1)
    np.testing.assert_allclose(columns.sum(axis=1), features)
    assert encoding.graph.places == ("stem", "block1", "block2", "head")
    assert encoding.graph.edges == tuple(pairwise(range(4)))
    assert not columns[GENES[:, 1] == 0, 2].any()


def test_activation_memory_by_hand() -> None:
    """While the second convolution of a block adds its input, three maps of 16 x 5 x 5 live; the stem's map of 16 x 9 x
    9 and its ReLU are larger."""
    graph = exported_graph(network([1, 0, 0]))
    assert graph_peak(graph) == 2 * 16 * 9 * 9
    assert [operator.kind for operator in graph.operators[:4]] == ["Sub", "Div", "Conv", "Relu"]
    assert sum(operator.kind == "Add" for operator in graph.operators) == 1


def test_nodes_read_earlier_nodes_only() -> None:
    first = Conv2d("a", ("b",), IMAGE, 4, 3)
    with pytest.raises(InvalidInput, match="'b' before it"):
        Network(IMAGE, (first, Conv2d("b", (INPUT,), IMAGE, 4, 3))).check()
    twice = Conv2d("a", (INPUT,), IMAGE, 4, 3)
    with pytest.raises(InvalidInput, match="name of its own"):
        Network(IMAGE, (twice, twice)).check()

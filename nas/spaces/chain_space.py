"""Base classes of spaces whose networks are chains of blocks: a space describes the chain, the rest follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidSpec
from nas.core.graph import GraphEncoding
from nas.core.layers import MapShape
from nas.core.network import Network
from nas.core.relaxation import Relaxation
from nas.spaces.base import DescribedSpace, space_id
from nas.spaces.block_chain import BlockChain
from nas.spaces.chain_relaxation import ChainRelaxation

P = TypeVar("P", bound=BaseModel)
MapSize = tuple[int, int]  # height and width
_NARROWEST = 4  # pixels


def strided(sizes: Sequence[MapSize], stride: int) -> tuple[MapSize, ...]:
    """The sizes of maps after a layer with this stride."""
    return tuple((-(-height // stride), -(-width // stride)) for height, width in sizes)


class ChainSpace(DescribedSpace[P]):
    """A space of the networks of ``chain``, the same for data of every size: the first decision is the height of the
    image, unless a space overrides ``input_shape``; its width follows from the shape of the data's images."""

    @property
    @abstractmethod
    def decisions(self) -> tuple[Decision, ...]:
        """What is chosen, in the order of genes."""

    @property
    @abstractmethod
    def chain(self) -> BlockChain:
        """The blocks of all networks."""

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input channels and classes, and the shape of images that are not square."""
        ratio = Fraction(self.shape.width, self.shape.height)
        shape = () if ratio == 1 else (str(ratio),)
        return space_id(self.name, self.params, self.shape.channels, self.shape.classes, *shape)

    def size_of(self, resolution: int) -> MapSize:
        """Height and width of images of a ``resolution``. Raises InvalidSpec where the width is less than a layer can
        read."""
        width = round(resolution * self.shape.width / self.shape.height)
        if width < _NARROWEST:
            raise InvalidSpec(
                f"resolution {resolution}: expected a width of at least {_NARROWEST} pixels, got {width} for images "
                f"with the shape of {self.shape.width}x{self.shape.height}"
            )
        return resolution, width

    def input_shape(self, arch: Arch) -> MapShape:
        """(channels, height, width) of the input this network takes."""
        return (self.shape.channels, *self.size_of(int(self.decisions[0].choices[arch.genes[0]])))

    def network(self, arch: Arch) -> Network:
        """The description of one network."""
        return Network(self.input_shape(arch), self.chain.nodes(arch.genes))

    @cached_property
    def largest_network(self) -> Network:
        """The network of the last choice of every decision."""
        return self.network(Arch(self.id, tuple(len(d.choices) - 1 for d in self.decisions)))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        return self.chain.costs(genes_NG)

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, F): the work by kind of layer (``nas.spaces.layer_work``)."""
        return self.chain.features(genes_NG)

    @property
    def graph_encoding(self) -> GraphEncoding:
        """The blocks of ``chain``, one after the other."""
        return self.chain.graph_encoding


class RelaxedChainSpace(ChainSpace[P]):
    """A chain whose blocks can be mixed (``nas.core.ports.RelaxedSpace``): a row for each block, a column for each of
    its choices."""

    @property
    @abstractmethod
    def chain_relaxation(self) -> ChainRelaxation:
        """The relaxation of ``chain``."""

    @property
    def relaxation(self) -> Relaxation:
        """That of ``chain_relaxation``."""
        return self.chain_relaxation.relaxation

    @property
    def partials(self) -> tuple[int, ...]:
        """Whole blocks only."""
        return (1,)

    def discretise(self, scores_EO: Floats) -> Genes:
        """The best operation of every block; where a stage may end, it does before the first block left out."""
        return self.chain_relaxation.discretise(scores_EO)

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """``discretise`` of N tables of scores, shape (N, G)."""
        return self.chain_relaxation.discretise_all(scores_NEO)

    def table(self, genes_G: Genes) -> Floats:
        """One-hot rows, shape (E, O); zeros for blocks behind one that was left out."""
        return self.chain_relaxation.table(genes_G)

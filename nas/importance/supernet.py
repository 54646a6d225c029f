"""What a supernet of a user's model offers beside any supernet: its graph, and the order of its units."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from nas.models.channels import ChannelAnalysis
from nas.models.graph import ModelGraph, WeightArrays
from nas.supernet import Supernet


class ModelSupernet(Supernet):
    """The weights of a user's trained model, of which narrower networks take the most important units."""

    @property
    @abstractmethod
    def graph(self) -> ModelGraph:
        """The parent's graph."""

    @property
    @abstractmethod
    def analysis(self) -> ChannelAnalysis:
        """Its channel groups."""

    @property
    @abstractmethod
    def weights(self) -> WeightArrays:
        """The present weights by the names of the graph's parameters."""

    @abstractmethod
    def set_unit_order(self, order: Mapping[str, Sequence[int]]) -> None:
        """Let narrow networks keep the first units of ``order``, by channel group; groups that are not named keep
        theirs. The order is part of the state. Raises InvalidInput unless each names all units of a group once."""

"""The space of networks that are smaller versions of a user's trained model. No torch here; the supernet is in
``network.py``.

Chosen are the width of each channel group, which residual blocks are kept, and the resolution. Which units of a group
remain is no choice: they are the first of an order by importance, which belongs to the supernet's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes, choice_counts
from nas.core.errors import InvalidSpec
from nas.core.graph import GraphEncoding
from nas.core.layers import Layer
from nas.core.parent import ParentModel, Preprocessing
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.spec import parse_spec
from nas.core.tasks import OutputKind
from nas.models.graph import InvalidModel
from nas.models.intake import takes_any_batch
from nas.spaces.base import SpaceDefaults, space_id
from search_spaces.own_model.choices import ElasticChoices
from search_spaces.own_model.costs import CountedNetworks, SizeTable, node_macs
from search_spaces.own_model.elasticity import ElasticModel, elastic_model
from search_spaces.own_model.encoding import encode_graph
from search_spaces.own_model.features import WorkTable
from search_spaces.own_model.layers import NetworkLayers
from search_spaces.own_model.memory import UNCOUNTED, MemoryTable
from search_spaces.own_model.sizes import GraphSizes, shapes_of_one_image
from search_spaces.presets import preset_of

_UNIFORM_SHARES = (0.75, 0.5, 0.375, 0.25)  # of the parent's widths, in reference networks
_RESOLUTIONS = 64  # choices; a space beyond this would exhaust whoever looks at it


class OwnModelParams(BaseModel):
    """How finely a model is narrowed. ``resolutions`` None: only the parent's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width_multiple: int = Field(
        default=8, ge=1, le=512, description="Channels by which widths differ; runtimes are fast at multiples of 8."
    )
    min_width: float = Field(default=0.25, gt=0, le=1, description="The smallest share of a channel group.")
    levels: int = Field(default=6, ge=2, le=64, description="The most choices of one width.")
    skip_blocks: bool = Field(default=True, description="Whether residual blocks may be skipped.")
    resolutions: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=_RESOLUTIONS,
        description="Sides of the square image in pixels, the parent's among them; by default the parent's alone.",
    )


def build(params: Mapping[str, JsonValue], shape: ImageShape, parent: ParentModel) -> OwnModel:
    """The space of a model for ``params`` and the data's channels.

    Raises UnknownName for a preset, as there is none, InvalidSpec for unknown or impossible parameters and for a model
    that does not take such images or of which nothing can be chosen, InvalidModel for a graph that is none.
    """
    if "preset" in params:
        preset_of("own_model", params["preset"], {})
    config = parse_spec(OwnModelParams, params)
    model = elastic_model(parent.graph_json)
    side = _side(model, shape, parent.name)
    resolutions = _resolutions(model, config, side, parent.name)
    space = OwnModel(config.model_copy(update={"resolutions": resolutions}), shape, parent, model)
    if all(len(decision.choices) == 1 for decision in space.decisions):
        raise InvalidSpec(
            f"model {parent.name!r}: expected something that may be narrowed, skipped or scaled, got nothing with "
            f"{config.model_dump_json()}; the intake report names the reasons"
        )
    return space


OWN_MODEL = SearchSpaceType(
    "own_model",
    "Smaller versions of a trained model of yours: narrower, with fewer blocks, of lower resolution.",
    build_from=build,
)


class OwnModel(SpaceDefaults):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution, then the width of each channel group, then for each residual block whether it is there.
    """

    name = "own_model"

    def __init__(self, config: OwnModelParams, shape: ImageShape, parent: ParentModel, model: ElasticModel) -> None:
        assert config.resolutions is not None
        self.config, self.shape, self.parent, self.model = config, shape, parent, model
        counts = {w: w.choices(config.width_multiple, config.min_width, config.levels) for w in model.widths}
        self.choices = ElasticChoices(
            model,
            config.resolutions,
            {width: choices for width, choices in counts.items() if len(choices) > 1},
            model.blocks if config.skip_blocks else (),
        )

    @cached_property
    def params(self) -> Mapping[str, JsonValue]:
        """``config`` as plain values."""
        return self.config.model_dump(mode="json")

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input shape and classes, and the parent's graph and preprocessing. Weights
        change no network's costs; models of one graph share what is known of latencies."""
        s, preprocessing = self.shape, self.preprocessing
        graph = hashlib.sha256(self.parent.graph_json).hexdigest()
        norm = None if preprocessing is None else [preprocessing.mean, preprocessing.std]
        return space_id(self.name, self.params, s.channels, s.height, s.width, s.classes, graph, norm)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The parent's."""
        return self.parent.preprocessing

    @property
    def outputs(self) -> OutputKind:
        """What the parent gives: a vector or a map of classes, or anything else."""
        graph = self.model.graph
        ranks = [len(graph.shapes[name]) - 1 for name in graph.outputs]
        return "vector" if ranks == [1] else "map" if ranks == [3] else "any"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution; kept units of each width; for each block 0 (skipped) or 1."""
        return (
            Decision("resolution", self.choices.resolutions),
            *(Decision(f"{width.name}.width", counts) for width, counts in self.choices.kept_counts.items()),
            *(Decision(f"{block.name}.depth", (0, 1)) for block in self.choices.blocks),
        )

    def canonical(self, genes_NG: Genes) -> Genes:
        """Widths of which all units are in skipped blocks, and blocks in skipped blocks, set to 0."""
        out, networks = genes_NG.copy(), self._networks(genes_NG)
        for i, width in enumerate(self.choices.widths):
            out[~networks.exists(width.places), 1 + i] = 0
        for i, block in enumerate(self.choices.blocks):
            around = self.model.containing_blocks[block.addition]
            out[~networks.exists(frozenset([around])), self.choices.first_block + i] = 0
        return out

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width) of the input this network takes."""
        resolution = self.choices.resolutions[arch.genes[0]]
        return (self.shape.channels, resolution, resolution)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,); the last two
        not of models whose exported form computes shapes."""
        networks = self._networks(genes_NG)
        counted = {
            "params": self._parameter_table(networks).sum(axis=1),
            "macs": self._mac_table(networks).sum(axis=1),
        }
        if self._memory is None:
            return counted
        return {
            **counted,
            "model_bytes": self._memory.weight_bytes(networks),
            "peak_bytes": self._memory.peak_bytes(networks),
        }

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, F): the work by kind of operation."""
        return self._work(self._networks(genes_NG))[:, self._varying]

    @cached_property
    def graph_encoding(self) -> GraphEncoding | None:
        """The layers as places that hold their work; None for graphs of version 1, whose predictors do without."""
        if self.model.graph.format_version < 2:
            return None
        return encode_graph(self.model, self._work, self._networks, self._probes)

    def layers(self, arch: Arch) -> list[Layer]:
        """The layers of one network, in order."""
        [counts_C] = self._networks(np.array([arch.genes], dtype=np.int64)).counts_NC
        return self._layers.of(arch, counts_C.astype(np.int64).tolist())

    def supernet(self, seed: int) -> Any:
        """The parent's weights as a supernet; nothing is drawn from ``seed``."""
        from search_spaces.own_model.network import OwnModelSupernet

        return OwnModelSupernet(self.choices, self.parent.load_weights())

    def parent_genes(self) -> Genes:
        """The genes of the parent, which keeps everything at its own resolution, shape (G,)."""
        genes_G = choice_counts(self.decisions) - 1
        genes_G[0] = self.choices.resolutions.index(self.model.graph.inputs[0].shape[2])
        return genes_G

    def uniform_genes(self, share: float) -> Genes:
        """The genes of the parent with about ``share`` of all widths, shape (G,)."""
        genes_G = self.parent_genes()
        for i, (width, counts) in enumerate(self.choices.kept_counts.items()):
            genes_G[1 + i] = int(np.abs(np.array(counts) - share * len(width.units)).argmin())
        return genes_G

    @property
    def pretrained_genes(self) -> tuple[int, ...]:
        """Those of the parent."""
        return tuple(self.parent_genes().tolist())

    @cached_property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """The parent, and narrower copies of it with about the same share of all widths."""
        shares = (share for share in _UNIFORM_SHARES if share >= self.config.min_width)
        uniform = {f"{share:.0%} width": tuple(self.uniform_genes(share).tolist()) for share in shares}
        return {"parent": self.pretrained_genes, **uniform}

    def _networks(self, genes_NG: Genes) -> CountedNetworks:
        choices, n = self.choices, len(genes_NG)
        kept_NW = np.zeros((n, len(choices.widths)), dtype=np.int64)
        for i, counts in enumerate(choices.kept_counts.values()):
            kept_NW[:, i] = np.array(counts)[genes_NG[:, 1 + i]]
        has_block_NB = np.ones((n, len(self.model.blocks)), dtype=bool)
        if choices.blocks:
            has_block_NB = genes_NG[:, choices.first_block :] == 1
        return CountedNetworks(self._sizes.counts(kept_NW), genes_NG[:, 0], has_block_NB)

    @cached_property
    def _layers(self) -> NetworkLayers:
        return NetworkLayers(self.choices, self._sizes)

    @cached_property
    def _sizes(self) -> GraphSizes:
        return GraphSizes(self.model, self.choices.widths, self.choices.resolutions)

    @cached_property
    def _parameter_table(self) -> SizeTable:
        names = [value.name for value in self.model.graph.learned]
        sizes = [self._sizes.elements(name) for name in names]
        return SizeTable(sizes, [self.model.parameter_places[name] for name in names], len(self.choices.resolutions))

    @cached_property
    def _mac_table(self) -> SizeTable:
        terms = [
            (size, frozenset([self.model.containing_blocks[node.name]]))
            for node in self.model.graph.nodes
            for size in node_macs(node, self._sizes)
        ]
        return SizeTable([size for size, _ in terms], [places for _, places in terms], len(self.choices.resolutions))

    @cached_property
    def _memory(self) -> MemoryTable | None:
        if any(node.operator.kind in UNCOUNTED for node in self.model.graph.nodes):
            return None
        return MemoryTable(self.model, self._sizes, len(self.choices.resolutions))

    @cached_property
    def _work(self) -> WorkTable:
        return WorkTable(self.model, self._sizes, len(self.choices.resolutions))

    @cached_property
    def _varying(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.flatnonzero(np.ptp(self._work(self._networks(self._probes)), axis=0) > 0)

    @cached_property
    def _probes(self) -> Genes:
        """Networks that show what differs: the ends and random ones."""
        counts = choice_counts(self.decisions)
        sampled_genes = np.random.default_rng(0).integers(0, counts, size=(256, len(counts)))
        return np.concatenate([np.stack([0 * counts, counts - 1]), sampled_genes])


def _side(model: ElasticModel, shape: ImageShape, name: str) -> int:
    """The side of the square images that the model takes. Raises InvalidSpec if it takes anything else."""
    inputs = model.graph.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[2] != inputs[0].shape[3]:
        shapes = ", ".join(str(list(value.shape)) for value in inputs)
        raise InvalidSpec(f"model {name!r}: expected one input of square images (N, C, side, side), got {shapes}")
    _, channels, side, _ = inputs[0].shape
    if channels != shape.channels:
        raise InvalidSpec(f"model {name!r}: it takes images of {channels} channels, got data of {shape.channels}")
    if not takes_any_batch(model.graph):
        raise InvalidSpec(
            f"model {name!r}: expected a model that takes any number of images at once; export it with dynamic_shapes"
        )
    return side


def _resolutions(model: ElasticModel, config: OwnModelParams, side: int, name: str) -> tuple[int, ...]:
    """The choices in rising order. Raises InvalidSpec for one that does not fit, and without the parent's."""
    resolutions = config.resolutions or (side,)
    if list(resolutions) != sorted(set(resolutions)) or side not in resolutions:
        raise InvalidSpec(
            f"resolutions: expected distinct sides in rising order, {side} of model {name!r} among them, "
            f"got {list(resolutions)}"
        )
    for resolution in resolutions:
        try:
            shapes = shapes_of_one_image(model.graph, resolution)
        except InvalidModel as error:
            raise InvalidSpec(f"resolutions: {resolution} does not fit model {name!r}: {error}") from error
        for output in model.graph.outputs:
            expected = model.graph.shapes[output][1:2]
            if shapes[output][1:2] != expected:
                raise InvalidSpec(f"resolutions: {resolution} changes the outputs of model {name!r}")
    return resolutions

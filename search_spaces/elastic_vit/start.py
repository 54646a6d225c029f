"""A trained model of a user as the start of the supernet: parameters by the names of DeiT, or by those that Hugging
Face's ViT and DeiT have for them. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidSpec
from nas.core.network import Network
from nas.core.parent import ParentModel
from nas.core.token_layers import PatchEmbedding
from nas.models.graph import ModelGraph
from nas.spaces.transformer import TransformerSizes
from search_spaces.elastic_vit.learngene import Sharing, expanded

_HUGGING_FACE = (
    (r"^(vit|deit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class TransformerStart:
    """A stored model whose parameters are those of the largest network of a space, or, with ``sharing``, of one with as
    large blocks, which are expanded to its ``depth``."""

    parent: ParentModel
    side: int  # of the images that it takes
    depth: int
    sharing: Sharing | None = None

    @classmethod
    def of(cls, parent: ParentModel, largest: Network, sharing: Sharing | None = None) -> TransformerStart:
        """Raises InvalidSpec, and InvalidModel for a graph that is none, if the model's parameters are others."""
        depth = len(largest.blocks)
        graph = ModelGraph.from_json(parent.graph_json)
        shapes = {value.name: value.shape for value in graph.learned}
        named = deit_shapes(shapes)
        expected = expected_shapes(largest, graph.inputs[0].shape[2], depth if sharing is None else _depth(named))
        for name in sorted(expected.keys() | named.keys()):
            if named.get(name) != expected.get(name):
                raise InvalidSpec(
                    f"space.model: expected a vision transformer with the parameters of the largest network of the "
                    f"space, by the names of DeiT or of Hugging Face; model {parent.name!r} has {name} of shape "
                    f"{_text(named.get(name))}, expected {_text(expected.get(name))}"
                )
        return cls(parent, graph.inputs[0].shape[2], depth, sharing)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its parameters by the names of DeiT, as those of a network of ``depth``. Raises InvalidSpec for blocks that
        do not share weights as they should."""
        arrays = joined(self.parent.load_weights())
        if self.sharing is None:
            return arrays
        blocks: list[dict[str, NDArray[Any]]] = [{} for _ in range(_depth(arrays))]
        for name in [name for name in arrays if name.startswith("blocks.")]:
            _, place, end = name.split(".", 2)
            blocks[int(place)][end] = arrays.pop(name)
        for i, block in enumerate(expanded(blocks, self.depth, self.sharing)):
            arrays |= {f"blocks.{i}.{end}": array for end, array in block.items()}
        return arrays


def deit_name(name: str) -> str:
    """The name in DeiT of a parameter; that of DeiT itself stays."""
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name


def joined(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays by the names of DeiT, whose queries, keys and values are one product."""
    named = {deit_name(name): array for name, array in arrays.items()}
    for query in [name for name in named if ".attn.query." in name]:
        parts = [named.pop(query.replace("query", part)) for part in _PARTS]
        named[query.replace("query", "qkv")] = np.concatenate(parts)
    return named


def deit_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """As ``joined``, of shapes."""
    named = {deit_name(name): shape for name, shape in shapes.items()}
    for query in [name for name in named if ".attn.query." in name]:
        parts = [named.pop(query.replace("query", part), (0,)) for part in _PARTS]
        named[query.replace("query", "qkv")] = (sum(shape[0] for shape in parts), *parts[0][1:])
    return named


def _depth(by_name: Iterable[str]) -> int:
    """The number of blocks of a network by the names of its parameters."""
    return len({name.split(".")[1] for name in by_name if name.startswith("blocks.")})


def expected_shapes(network: Network, side: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a network of ``depth`` blocks as large as the first of ``network``, by the names of
    DeiT, with positions for square images of ``side`` pixels."""
    patches, classifier = network.layers[0], network.layers[-1]
    assert isinstance(patches, PatchEmbedding)
    width, tokens = patches.out_channels, (side // patches.patch) ** 2 + patches.class_token
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, patches.in_shape[0], patches.patch, patches.patch),
        "patch_embed.proj.bias": (width,),
        **_linear("head", width, classifier.out_shape[0]),
        **_norm("norm", width),
    }
    if patches.class_token:
        shapes["cls_token"] = (1, 1, width)
    sizes = TransformerSizes.of(next(iter(network.blocks.values())))
    inner = sizes.heads * sizes.head_dim
    for i in range(depth):
        shapes |= _norm(f"blocks.{i}.norm1", width) | _norm(f"blocks.{i}.norm2", width)
        shapes |= _linear(f"blocks.{i}.attn.qkv", width, 3 * inner) | _linear(f"blocks.{i}.attn.proj", inner, width)
        shapes |= _linear(f"blocks.{i}.mlp.fc1", width, sizes.hidden)
        shapes |= _linear(f"blocks.{i}.mlp.fc2", sizes.hidden, width)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _text(shape: Iterable[int] | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))

"""The features of a network: what its last layer with weights reads, by which a student is compared with its teacher.

In a module, the classifier is the last linear layer. In a user's model, it is the last linear layer or convolution of
the graph; of maps and sequences of tokens the mean over all positions is taken, so that networks of several resolutions
have features of one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from nas.core.errors import InvalidSpec
from nas.core.operators import Conv2dOp, ConvTranspose2dOp, LinearOp
from nas.models.execution import GraphModule
from nas.models.graph import ModelGraph


@dataclass(frozen=True)
class GraphFeatures:
    """The output of a ``node`` that the classifier of a graph reads, its channels along ``axis``, so many."""

    node: str
    axis: int
    channels: int


def features_of_graph(graph: ModelGraph) -> GraphFeatures:
    """The features of a user's model. Raises InvalidSpec for a graph whose layers all read its inputs."""
    computed = {node.name for node in graph.nodes}
    for node in reversed(graph.nodes):
        if isinstance(node.operator, Conv2dOp | ConvTranspose2dOp | LinearOp) and node.operands[0] in computed:
            shape = graph.shapes[node.operands[0]]
            axis = len(shape) - 1 if isinstance(node.operator, LinearOp) else 1
            return GraphFeatures(node.operands[0], axis, shape[axis])
    raise InvalidSpec(
        "retrain.distillation.features: expected a model with a linear layer or a convolution behind others, whose "
        "inputs are compared; got one without"
    )


def feature_channels(module: nn.Module) -> int:
    """How many features a network has. Raises InvalidSpec for one without a classifier."""
    if isinstance(module, GraphModule):
        return features_of_graph(module.graph).channels
    return _last_linear(module).in_features


@contextmanager
def classifier_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Context that appends the features, shape (B, F), to a list whenever the network is run. Raises InvalidSpec as
    ``feature_channels``."""
    inputs: list[Tensor] = []
    if isinstance(module, GraphModule):
        features = features_of_graph(module.graph)

        def tap(x: Tensor) -> Tensor:
            inputs.append(_over_positions(x, features.axis))
            return x

        with module.tapped({features.node: tap}):
            yield inputs
        return
    hook = _last_linear(module).register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def feature_projection(student: nn.Module, teacher: nn.Module) -> nn.Module:
    """A new linear map from the student's features to the teacher's; the identity where there are as many of both.
    Raises InvalidSpec as ``feature_channels``."""
    student_features, teacher_features = feature_channels(student), feature_channels(teacher)
    if student_features == teacher_features:
        return nn.Identity()
    return nn.Linear(student_features, teacher_features, bias=False)


def _over_positions(x: Tensor, axis: int) -> Tensor:
    """The mean over all axes but images and channels, shape (B, C)."""
    return x.movedim(axis, 1).flatten(2).mean(2) if x.ndim > 2 else x


def _last_linear(module: nn.Module) -> nn.Linear:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InvalidSpec(
            "retrain.distillation.features: expected networks that end in a linear layer, whose inputs are compared; "
            "got one without linear layers"
        )
    return layers[-1]

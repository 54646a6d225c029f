"""Learning block by block from a teacher, then from longer and longer parts (StableKD: Kao et al., 2023), for users'
models and their narrowed versions.

Trained end to end, early blocks chase what late blocks make of them. Here student and teacher are cut into blocks at
the same nodes: first each block of the student reads the teacher's features and learns the teacher's next ones, without
gradients across blocks; then neighbours are merged until the student runs alone. The schedule (30, 20 and 50 % of the
epochs) and the maps between features of different widths are a reconstruction: the paper's abstract does not say them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.core.errors import InvalidSpec
from nas.models.execution import GraphModule
from nas.models.graph import ModelGraph

_BY_BLOCKS, _AS_ONE = 0.3, 0.5  # shares of all epochs: all blocks by themselves, and at the end one
_RIDGE = 1e-3  # of the first maps, relative to the mean square of a feature


def cut_points(graph: ModelGraph) -> tuple[str, ...]:
    """The nodes through which everything that an output depends on goes: nothing computed before them is read after
    them. In the order of the graph; outputs are none."""
    last_reader = {name: node.name for node in graph.nodes for name in node.operands}
    alive = {value.name for value in graph.inputs}
    points = []
    for node in graph.nodes:
        alive = {name for name in alive if name in graph.outputs or last_reader.get(name) != node.name}
        if alive == set() and node.name not in graph.outputs and node.name in last_reader:
            points.append(node.name)
        alive.add(node.name)
    return tuple(points)


def block_ends(student: ModelGraph, teacher: ModelGraph, blocks: int) -> tuple[str, ...]:
    """The nodes at which both are cut into so many blocks, evenly over the nodes of the teacher where they can be cut.
    Raises InvalidSpec where there are too few."""
    common = set(cut_points(student))
    positions = {node.name: i for i, node in enumerate(teacher.nodes)}
    points = [name for name in cut_points(teacher) if name in common and len(teacher.shapes[name]) >= 3]
    if len(points) < blocks - 1:
        raise InvalidSpec(
            f"retrain.distillation.blocks: expected at most {len(points) + 1}, since a network and its teacher can be "
            f"cut at {len(points)} places alike, got {blocks}"
        )
    targets = [len(teacher.nodes) * i / blocks for i in range(1, blocks)]
    ends: list[str] = []
    for i, position in enumerate(targets):
        first, last = (points.index(ends[-1]) + 1 if ends else 0), len(points) - (len(targets) - 1 - i)
        ends.append(min(points[first:last], key=lambda name: abs(positions[name] - position)))
    return tuple(ends)


def active_ends(ends: tuple[str, ...], epoch: int, epochs: int) -> tuple[str, ...]:
    """The cuts of an epoch: at first all, then every second, every fourth and so on, at last none."""
    merges = len(ends).bit_length()  # until no cut is left
    share = epoch / epochs
    if share < _BY_BLOCKS:
        merged = 0
    elif share >= 1.0 - _AS_ONE:
        merged = merges
    else:
        steps = max(1, merges - 1)
        merged = min(steps, 1 + int(steps * (share - _BY_BLOCKS) / (1.0 - _AS_ONE - _BY_BLOCKS)))
    return ends[2**merged - 1 :: 2**merged]


@dataclass(eq=False)
class BlockLosses:
    """How far the ends of blocks are from the teacher's features, in one run of the student."""

    losses: list[Tensor] = field(default_factory=list)

    def total(self) -> Tensor | float:
        """Their sum; 0 where no block ended."""
        return sum(self.losses, start=0.0)


class BlockwiseDistillation(nn.Module):
    """A student and its teacher, cut alike. ``to_teacher`` and ``to_student`` map features where widths differ: at
    first by least squares on some images, which each takes at its own resolution (``student_BCHW``, ``teacher_BCHW``);
    later they are trained with the student."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        blocks: int,
        epochs: int,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
    ) -> None:
        super().__init__()
        if not isinstance(student, GraphModule) or not isinstance(teacher, GraphModule):
            raise InvalidSpec(
                "retrain.distillation.blocks: expected a model of yours and its parent as the teacher, whose blocks "
                f"are alike, got blocks {blocks} for other networks"
            )
        self.epochs, self.ends = epochs, block_ends(student.graph, teacher.graph, blocks)
        axes = {node: 1 if len(teacher.graph.shapes[node]) == 4 else -1 for node in self.ends}
        self._axes = axes
        of_student, of_teacher = recorded(student, self.ends, student_BCHW), recorded(teacher, self.ends, teacher_BCHW)
        maps = [_first_maps(of_student[node], of_teacher[node], axes[node]) for node in self.ends]
        self.to_teacher = nn.ModuleList(to_teacher for to_teacher, _ in maps)
        self.to_student = nn.ModuleList(to_student for _, to_student in maps)

    def active(self, epoch: int) -> tuple[str, ...]:
        """The cuts of an epoch."""
        return active_ends(self.ends, epoch, self.epochs)

    @contextmanager
    def taught(self, student: nn.Module, features: dict[str, Tensor]) -> Iterator[BlockLosses]:
        """Context in which, where the teacher's ``features`` are given, the student's are compared with them and then
        replaced by them."""
        assert isinstance(student, GraphModule)
        losses = BlockLosses()

        def tap(node: str) -> Callable[[Tensor], Tensor]:
            i, axis = self.ends.index(node), self._axes[node]

            def replaced(x: Tensor) -> Tensor:
                expected = _as_large(features[node], x)
                mapped = _along(axis, self.to_teacher[i], x)
                losses.losses.append(F.mse_loss(mapped.float(), expected) / expected.var().clamp_min(1e-12))
                return _along(axis, self.to_student[i], expected).to(x.dtype)

            return replaced

        with student.tapped({node: tap(node) for node in features}):
            yield losses


@torch.no_grad()
def recorded(module: nn.Module, nodes: tuple[str, ...], x_BCHW: Tensor) -> dict[str, Tensor]:
    """The outputs of some nodes for a batch."""
    assert isinstance(module, GraphModule)
    outputs: dict[str, Tensor] = {}

    def tap(node: str) -> Callable[[Tensor], Tensor]:
        return lambda x: outputs.setdefault(node, x.detach())

    with module.tapped({node: tap(node) for node in nodes}):
        module(x_BCHW)
    return outputs


def _first_maps(student: Tensor, teacher: Tensor, axis: int) -> tuple[nn.Module, nn.Module]:
    """The linear maps from the student's features to the teacher's, and back; identities for equal widths."""
    if student.shape[axis] == teacher.shape[axis]:
        return nn.Identity(), nn.Identity()
    student_NC, teacher_ND = (x.movedim(axis, -1).flatten(0, -2) for x in (student, _as_large(teacher, student)))
    return _least_squares(student_NC, teacher_ND), _least_squares(teacher_ND, student_NC)


def _least_squares(source_NC: Tensor, target_ND: Tensor) -> nn.Linear:
    gram_CC = source_NC.T @ source_NC
    ridge = _RIDGE * gram_CC.diagonal().mean().clamp_min(1e-12)
    diagonal_CC = ridge * torch.eye(len(gram_CC), device=gram_CC.device)
    weight_CD = torch.linalg.solve(gram_CC + diagonal_CC, source_NC.T @ target_ND)
    linear = nn.Linear(source_NC.shape[1], target_ND.shape[1], bias=False, device=source_NC.device)
    with torch.no_grad():
        linear.weight.copy_(weight_CD.T)
    return linear


def _along(axis: int, linear: nn.Module, x: Tensor) -> Tensor:
    """A linear map of the channels along an axis."""
    if isinstance(linear, nn.Identity):
        return x
    mapped: Tensor = linear(x.movedim(axis, -1))
    return mapped.movedim(-1, axis)


def _as_large(features: Tensor, like: Tensor) -> Tensor:
    """Feature maps at the height and width of others. Raises InvalidSpec for sequences of another length."""
    if features.ndim == 4 and features.shape[2:] != like.shape[2:]:
        return F.adaptive_avg_pool2d(features, (like.shape[2], like.shape[3]))
    if features.ndim != 4 and features.shape[1:-1] != like.shape[1:-1]:
        raise InvalidSpec(
            f"retrain.distillation.blocks: expected features of one size, got {list(features.shape)} of the "
            f"teacher and {list(like.shape)}"
        )
    return features

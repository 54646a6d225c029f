"""Training-only regularisers: path dropout, and an auxiliary classifier on an intermediate layer.

Both are forward hooks on a plain network during training, so that the evaluated, stored and exported network does not
contain them. A part of a network offers ``paths()``, the modules whose output may be dropped; a network offers
``auxiliary()``, an intermediate module and a new classifier of that module's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

Tensor = torch.Tensor


@runtime_checkable
class HasPaths(Protocol):
    """A part of a network with operations that may be dropped in training."""

    def paths(self) -> list[nn.Module]: ...


@runtime_checkable
class HasAuxiliary(Protocol):
    """A network that can be trained with an auxiliary classifier."""

    def auxiliary(self) -> tuple[nn.Module, nn.Module]: ...


def paths_of(module: nn.Module) -> list[nn.Module]:
    """The modules whose output may be dropped, over all parts of a network."""
    return [path for part in module.modules() if isinstance(part, HasPaths) for path in part.paths()]


def auxiliary_of(module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The intermediate module and a classifier of its output; None where the network offers none."""
    return module.auxiliary() if isinstance(module, HasAuxiliary) else None


def drop_path(x_BCHW: Tensor, probability: float) -> Tensor:
    """Set whole images to zero and scale the others by 1 / (1 - probability) (Larsson et al., ICLR 2017, as used by
    DARTS)."""
    keep = 1.0 - probability
    keep_B = torch.rand(x_BCHW.shape[0], device=x_BCHW.device) < keep
    return x_BCHW * (keep_B / keep).to(x_BCHW.dtype).view(-1, 1, 1, 1)


@contextmanager
def path_dropout(paths: Sequence[nn.Module], probability: float) -> Iterator[None]:
    """Context in which each path's output is zero for an image with ``probability``, drawn from torch's global
    generator."""
    with ExitStack() as stack:
        if probability > 0:
            for path in paths:
                stack.enter_context(
                    _removed(path.register_forward_hook(lambda _m, _x, out: drop_path(out, probability)))
                )
        yield


@contextmanager
def recorded_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Context that appends the outputs of a module to a list."""
    outputs: list[Tensor] = []
    with _removed(module.register_forward_hook(lambda _m, _x, out: outputs.append(out))):
        yield outputs


@contextmanager
def _removed(hook: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()

"""What a network is trained with and does not keep: dropped paths, and a second classifier in its middle.

Both are put on a plain network from outside while it trains, so that what is evaluated, kept and exported knows nothing
of them. A part of a network offers ``paths()``, the modules whose output may be dropped; a network offers
``auxiliary()``, a module in its middle and a fresh classifier of that module's output.
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
    """A part of a network with operations that may be dropped while it trains."""

    def paths(self) -> list[nn.Module]: ...


@runtime_checkable
class HasAuxiliary(Protocol):
    """A network that can be trained with a second classifier."""

    def auxiliary(self) -> tuple[nn.Module, nn.Module]: ...


def paths_of(module: nn.Module) -> list[nn.Module]:
    """The modules whose output may be dropped, of all parts that offer some."""
    return [path for part in module.modules() if isinstance(part, HasPaths) for path in part.paths()]


def auxiliary_of(module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The module that is looked at and a classifier of what it gives; None where none is offered."""
    return module.auxiliary() if isinstance(module, HasAuxiliary) else None


def drop(x_BCHW: Tensor, probability: float) -> Tensor:
    """Zeros for whole images, the others raised for it (Larsson et al., ICLR 2017, as used by DARTS)."""
    keep = 1.0 - probability
    kept_B = torch.rand(x_BCHW.shape[0], device=x_BCHW.device) < keep
    return x_BCHW * (kept_B / keep).to(x_BCHW.dtype).view(-1, 1, 1, 1)


@contextmanager
def dropped(paths: Sequence[nn.Module], probability: float) -> Iterator[None]:
    """While it lasts, each path gives nothing for an image with ``probability``, drawn from torch's own generator."""
    with ExitStack() as stack:
        if probability > 0:
            for path in paths:
                stack.enter_context(_removed(path.register_forward_hook(lambda _m, _x, out: drop(out, probability))))
        yield


@contextmanager
def seen(module: nn.Module) -> Iterator[list[Tensor]]:
    """While it lasts, what a module gives is put into the list."""
    outputs: list[Tensor] = []
    with _removed(module.register_forward_hook(lambda _m, _x, out: outputs.append(out))):
        yield outputs


@contextmanager
def _removed(hook: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()

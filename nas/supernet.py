"""What a supernet is: one module that holds the weights of every network of a space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import MutableMapping, Sequence

import torch
from torch import nn

from nas.core.arch import Arch


class AdaptiveRates(nn.Module):
    """A network whose weights learn by AdamW instead of SGD, as transformers need (``nas.training.recipe``)."""


class Supernet(nn.Module):
    """Called *with* an architecture, ``net(x_BCHW, arch) -> logits_BK``, and never set to one, so that threads with
    different architectures do not disturb each other.

    Batch-norm statistics belong to a subnet, not to shared weights: in training mode the batch's own statistics
    normalise and nothing is recorded; a subnet is recalibrated before it is evaluated
    (``nas.training.calibration.recalibrate``).

    ``dropout``: the probability before the classifier in training mode.
    """

    dropout: float = 0.0

    @abstractmethod
    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits of shape (B, classes), by the weights of ``arch`` alone."""

    @abstractmethod
    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone module with copied weights: ``subnet(arch)(x)`` equals ``net(x, arch)``."""

    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort elastic channels by importance, so that narrow networks inherit the most important ones; the functions
        of the largest network and of ``trained`` stay unchanged. Default: nothing."""

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The parts that are worth compiling by themselves, where networks are made of few kinds. Default: none."""
        return ()


class PrefixSupernet(Supernet):
    """The supernet ``inner`` of a space with fewer decisions, for architectures that have others after them: it reads
    the first ``genes`` alone, as an architecture of the space ``space_id``. Its weights have the names of those of
    ``inner``, so that each can be trained in place of the other."""

    def __init__(self, inner: Supernet, space_id: str, genes: int) -> None:
        super().__init__()
        self.inner = inner
        self._space_id, self._genes = space_id, genes
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """As ``inner``."""
        logits: torch.Tensor = self.inner(x_BCHW, self._of_inner(arch))
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """As ``inner``."""
        return self.inner.subnet(self._of_inner(arch))

    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """As ``inner``."""
        self.inner.sort_channels([self._of_inner(arch) for arch in trained])

    def compiled_parts(self) -> Sequence[nn.Module]:
        """As ``inner``."""
        return self.inner.compiled_parts()

    def _of_inner(self, arch: Arch) -> Arch:
        return Arch(self._space_id, arch.genes[: self._genes])


_PREFIX = "inner."


def _without_prefix(module: nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + _PREFIX)]:
        state[prefix + name[len(prefix + _PREFIX) :]] = state.pop(name)


def _with_prefix(module: nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str, *_: object) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + _PREFIX + name[len(prefix) :]] = state.pop(name)


def edges_of_cell(edges_E: torch.Tensor | None, cell: int) -> torch.Tensor | None:
    """The scales of edges, shape (E,) or (E, B), in the cell of a number among equal ones: those of images are moved on
    by so many images."""
    return edges_E.roll(cell, dims=1) if edges_E is not None and edges_E.ndim == 2 else edges_E


class RelaxedSupernet(Supernet):
    """A supernet that also computes weighted sums of operations, for differentiable search; see
    ``nas.core.relaxation``."""

    @abstractmethod
    def mix(
        self,
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        *,
        active_EO: torch.Tensor | None = None,
        edges_E: torch.Tensor | None = None,
        partial: int = 1,
        entangled: bool = False,
    ) -> torch.Tensor:
        """Logits of shape (B, classes): every edge is the sum of its operations times their weights.

        ``active_EO``: the operations to compute, a bool table; the others count as zero. Normalisation inside cells has
        no scale and no shift of its own, which would compete with the weights. ``partial``: only the first of so many
        equal parts of the channels go through the operations, the others pass, and channels are shuffled (PC-DARTS, Xu
        et al., ICLR 2020). ``edges_E``: scale of each edge of a cell, shape (E,), or (E, B) for each edge and image; of
        equal cells each takes those of the next image, so that it drops other paths. ``entangled``: of two nested
        operations (``Relaxation.nested``), the smaller one has part of the larger one's weights; both are one operation
        with the weighted mean of their kernels, times the sum of their weights (TangleNAS, Sukthanker et al., AutoML
        2024).
        """

    def disentangle(self) -> None:
        """Copy to each smaller operation its part of the larger one, so that single networks inherit it. Default:
        nothing, for relaxations without nested operations."""

    def widen(self, before: int, after: int) -> None:
        """Go from mixing the first of ``before`` equal parts of the channels to the first of ``after``, fewer ones:
        what one part has learned is repeated in the others. Default: nothing, for relaxations of whole channels."""

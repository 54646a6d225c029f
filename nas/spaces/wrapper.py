"""A search space that answers as another one; subclasses override what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.cells import CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import GraphEncoding
from nas.core.layers import Layer
from nas.core.parent import Preprocessing
from nas.core.ports import ImageShape, RelaxedSpace, SearchSpace, is_relaxed
from nas.core.relaxation import Relaxation
from nas.core.tasks import OutputKind


class SpaceWrapper:
    """Passes every member of ``SearchSpace`` and ``RelaxedSpace`` on to ``inner``.

    The members of a relaxed space raise InvalidInput if ``inner`` has no relaxation.
    """

    def __init__(self, inner: SearchSpace) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """Of ``inner``."""
        return self.inner.name

    @property
    def id(self) -> str:
        """Of ``inner``."""
        return self.inner.id

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Of ``inner``."""
        return self.inner.decisions

    @property
    def params(self) -> Mapping[str, JsonValue]:
        """Of ``inner``."""
        return self.inner.params

    @property
    def shape(self) -> ImageShape:
        """Of ``inner``."""
        return self.inner.shape

    @property
    def graph_encoding(self) -> GraphEncoding | None:
        """Of ``inner``."""
        return self.inner.graph_encoding

    @property
    def cells(self) -> tuple[CellGraph, ...]:
        """Of ``inner``."""
        return self.inner.cells

    @property
    def relaxation(self) -> Relaxation | None:
        """Of ``inner``."""
        return self.inner.relaxation

    @property
    def regularisers(self) -> Mapping[str, float]:
        """Of ``inner``."""
        return self.inner.regularisers

    @property
    def features_as_written(self) -> Callable[[Genes], Floats] | None:
        """Of ``inner``."""
        return self.inner.features_as_written

    @property
    def costs_as_written(self) -> Callable[[Genes], dict[str, Floats]] | None:
        """Of ``inner``."""
        return self.inner.costs_as_written

    @property
    def accuracy_features(self) -> Callable[[Genes], Floats] | None:
        """Of ``inner``."""
        return self.inner.accuracy_features

    @property
    def pretrained_genes(self) -> tuple[int, ...] | None:
        """Of ``inner``."""
        return self.inner.pretrained_genes

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """Of ``inner``."""
        return self.inner.references

    def from_notation(self, text: str) -> tuple[int, ...]:
        """By ``inner``."""
        return self.inner.from_notation(text)

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """Of ``inner``."""
        return self.inner.published

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Of ``inner``."""
        return self.inner.preprocessing

    @property
    def outputs(self) -> OutputKind:
        """That of the space within."""
        return self.inner.outputs

    @property
    def unrestricted(self) -> SearchSpace:
        """This wrapper, unless ``inner`` is restricted: then without the restriction."""
        return cast(SearchSpace, self) if self.inner.unrestricted is self.inner else self.inner.unrestricted

    def canonical(self, genes_NG: Genes) -> Genes:
        """By ``inner``."""
        return self.inner.canonical(genes_NG)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """By ``inner``."""
        return self.inner.costs(genes_NG)

    def features(self, genes_NG: Genes) -> Floats:
        """By ``inner``."""
        return self.inner.features(genes_NG)

    def layers(self, arch: Arch) -> list[Layer]:
        """By ``inner``."""
        return self.inner.layers(arch)

    def is_constant(self, arch: Arch) -> bool:
        """By ``inner``."""
        return self.inner.is_constant(arch)

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """By ``inner``."""
        return self.inner.input_shape(arch)

    def supernet(self, seed: int) -> Any:
        """By ``inner``."""
        return self.inner.supernet(seed)

    @property
    def partials(self) -> tuple[int, ...]:
        """Of ``inner``."""
        return self.inner_relaxed.partials

    def discretise(self, scores_EO: Floats) -> Genes:
        """By ``inner``."""
        return self.inner_relaxed.discretise(scores_EO)

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """By ``inner``."""
        return self.inner_relaxed.discretise_all(scores_NEO)

    def table(self, genes_G: Genes) -> Floats:
        """By ``inner``."""
        return self.inner_relaxed.table(genes_G)

    @property
    def inner_relaxed(self) -> RelaxedSpace:
        """``inner``. Raises InvalidInput if it has no relaxation."""
        if not is_relaxed(self.inner):
            raise InvalidInput(f"expected a space with a continuous relaxation, got {self.inner.name}")
        return self.inner

"""What families of predictors share: checked inputs, the applicability domain, the calibrated bound, stored arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.ports import SearchSpace
from predictors.calibration import upper_factor
from predictors.domain import ApplicabilityDomain
from predictors.validation import check_features, check_measured, held_out_ms


@dataclass(frozen=True)
class BoundedPredictor(ABC):
    """Base of all families: a mean, an upper bound above it, and the domain where both hold.

    A family is a frozen dataclass of arrays and of the floats named by ``scalars``, which are stored in that order;
    fields that are neither are named by ``nested``, and the family stores them itself. ``domain`` is None for a
    predictor that was stored before there were domains, and before the bound is calibrated.
    """

    family: ClassVar[str]
    scalars: ClassVar[tuple[str, ...]]
    nested: ClassVar[tuple[str, ...]] = ("domain",)
    domain: ApplicabilityDomain | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def columns(self) -> int:
        """Number of columns of what ``predict`` reads."""

    @abstractmethod
    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms of N networks, shape (N,)."""

    @abstractmethod
    def bound_ms(self, mean_ms_N: Floats) -> Floats:
        """The upper bound in ms that belongs to each mean, shape (N,)."""

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks. Raises InvalidInput for features of another space."""
        check_features(features_NF, self.columns)
        mean_ms_N = self.mean_ms(features_NF)
        return Latency(mean_ms_N, self.bound_ms(mean_ms_N))

    def is_extrapolation(self, features_NF: Floats) -> NDArray[np.bool_] | None:
        """Which of N networks lie outside the domain, shape (N,); None without a domain. Raises as ``predict``."""
        check_features(features_NF, self.columns)
        return None if self.domain is None else self.domain.is_extrapolation(features_NF)

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks: the features of the space, shape (N, F)."""
        return space.features(genes_NG)

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """``is_extrapolation`` of N networks of a space."""
        return self.is_extrapolation(self.inputs(space, genes_NG))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays: fields that are arrays by name, the floats together as ``scalars``."""
        values = vars(self)
        return {
            **{name: values[name] for name in self._array_names()},
            "scalars": np.array([values[name] for name in self.scalars]),
            **(self.domain.to_arrays() if self.domain is not None else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of ``to_arrays``. Raises KeyError or ValueError for arrays of another family."""
        return cls(**cls.stored_fields(arrays))

    @classmethod
    def stored_fields(cls, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The fields by name, from ``to_arrays``."""
        return {
            **{name: arrays[name] for name in cls._array_names()},
            **dict(zip(cls.scalars, map(float, arrays["scalars"]), strict=True)),
            "domain": ApplicabilityDomain.from_arrays(arrays),
        }

    @classmethod
    def _array_names(cls) -> tuple[str, ...]:
        return tuple(f.name for f in fields(cls) if f.name not in (*cls.scalars, *cls.nested))


@dataclass(frozen=True)
class CalibratedPredictor(BoundedPredictor):
    """Base of families whose bound is ``factor`` times the mean, calibrated on networks that a fit did not use."""

    factor: float = field(default=1.0, kw_only=True)

    def bound_ms(self, mean_ms_N: Floats) -> Floats:
        """The calibrated bound in ms, shape (N,)."""
        return mean_ms_N * self.factor

    @abstractmethod
    def refit_mean(self, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None) -> Self:
        """The mean of the same family, fitted to other networks; its bound is not calibrated."""

    def bounded(self, features_NF: Floats, latency_ms_N: Floats, held_out_N: Floats) -> Self:
        """The same mean with its bound and its domain, given means ``held_out_N`` of fits that did not use them."""
        return replace(self, factor=upper_factor(latency_ms_N, held_out_N), domain=ApplicabilityDomain.of(features_NF))

    @classmethod
    def calibrated(
        cls,
        fit_mean: Callable[[Floats, Floats, int, Floats | None], Self],
        features_NF: Floats,
        latency_ms_N: Floats,
        folds: int,
        seed: int,
        weight_N: Floats | None,
    ) -> Self:
        """Fits the mean on all networks and calibrates its bound on those held out of ``folds`` refits. Raises
        InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite."""
        check_measured(features_NF, latency_ms_N)
        held_out_N = held_out_ms(fit_mean, features_NF, latency_ms_N, folds, seed, weight_N)
        return fit_mean(features_NF, latency_ms_N, seed, weight_N).bounded(features_NF, latency_ms_N, held_out_N)


@dataclass(frozen=True)
class FeaturePredictor(CalibratedPredictor):
    """Base of calibrated families that read the features of a space; ``folds`` refits calibrate the bound."""

    folds: ClassVar[int] = 5

    @classmethod
    @abstractmethod
    def fit_mean(cls, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None) -> Self:
        """The mean alone, with no bound above it."""

    def refit_mean(self, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None) -> Self:
        """``fit_mean`` of the family."""
        return self.fit_mean(features_NF, latency_ms_N, seed, weight_N)

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        folds: int | None = None,
        seed: int = 0,
        weight_N: Floats | None = None,
    ) -> Self:
        """Fits on all networks and calibrates the bound. Raises as ``calibrated``."""
        return cls.calibrated(cls.fit_mean, features_NF, latency_ms_N, folds or cls.folds, seed, weight_N)

    @classmethod
    def fit_networks(
        cls, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> Self:
        """``fit`` to networks of a space, by its features."""
        return cls.fit(space.features(genes_NG), latency_ms_N, weight_N=weight_N)

"""What a device takes for layers, learned from networks of other spaces: a latency to expect of a network that nobody
has measured, wherever its space is.

A layer takes a time for being there, for its arithmetic, for what it moves and so on (``nas.spaces.layer_work``), by
kind; a network takes the sum, and a time of its own. No such time is negative; those of kinds that the other spaces do
not have, or hardly tell, are near those of all kinds together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes, as_archs
from nas.core.layers import Layer
from nas.core.ports import SearchSpace
from nas.spaces.layer_work import WORK, layer_kind, work_by_kind

FREE = ("skip",)  # operations that no runtime executes
MOST_NETWORKS = 400  # of a space, whose layers are summed one by one
_PULL = 0.03  # towards the times of all kinds, over what the measurements say of a typical one


@dataclass(frozen=True)
class MeasuredWork:
    """The work of R networks or single layers, by kind, shape (R, K, W), and what each takes in ms, shape (R,)."""

    kinds: tuple[str, ...]
    work_RKW: Floats
    latency_ms_R: Floats

    @staticmethod
    def of_networks(space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats) -> MeasuredWork:
        """Of networks of a space, of many a random part."""
        rows = np.sort(np.random.default_rng(0).permutation(len(genes_NG))[:MOST_NETWORKS])
        layers = [list(space.layers(arch)) for arch in as_archs(space.id, genes_NG[rows])]
        return MeasuredWork.of_layers(layers, latency_ms_N[rows])

    @staticmethod
    def of_layers(layers: Sequence[Sequence[Layer]], latency_ms_R: Floats) -> MeasuredWork:
        """Of sequences of layers, each of which takes so many ms."""
        kinds = tuple(sorted({layer_kind(la) for row in layers for la in row if la.op not in FREE}))
        work = np.array([work_by_kind(row, kinds) for row in layers]).reshape(len(layers), len(kinds), len(WORK))
        return MeasuredWork(kinds, work, latency_ms_R)

    def with_rows(self, more: MeasuredWork) -> MeasuredWork:
        """Both together."""
        kinds = tuple(sorted({*self.kinds, *more.kinds}))
        rows = np.concatenate([_aligned(self, kinds), _aligned(more, kinds)])
        return MeasuredWork(kinds, rows, np.concatenate([self.latency_ms_R, more.latency_ms_R]))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As plain arrays, whose names begin with ``work_``."""
        return {
            "work_kinds": np.array(self.kinds, dtype=np.str_),
            "work_rows": self.work_RKW,
            "work_latency_ms": self.latency_ms_R,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> MeasuredWork | None:
        """Inverse of ``to_arrays``; None where it was not stored."""
        if "work_kinds" not in arrays:
            return None
        return MeasuredWork(tuple(arrays["work_kinds"].tolist()), arrays["work_rows"], arrays["work_latency_ms"])


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds for each unit of work, by kind and for all other kinds (the last row), shape (K + 1, W); a network
    takes ``base_ms`` beside its layers."""

    kinds: tuple[str, ...]
    ms_KW: Floats
    base_ms: float

    @classmethod
    def learn(cls, measured: Sequence[MeasuredWork]) -> LayerTimes:
        """From what one device takes in one space or several, errors being relative."""
        kinds = tuple(sorted({kind for part in measured for kind in part.kinds}))
        work_RKW = np.concatenate([_aligned(part, kinds) for part in measured])
        ms_R = np.concatenate([part.latency_ms_R for part in measured])
        rows = len(ms_R)
        together_RW = work_RKW.sum(1)
        pooled_W1 = _least_squares(np.hstack([together_RW, np.ones((rows, 1))]), ms_R, None)
        prior = np.append(np.tile(pooled_W1[:-1], len(kinds)), pooled_W1[-1])
        times = _least_squares(np.hstack([work_RKW.reshape(rows, -1), np.ones((rows, 1))]), ms_R, prior)
        own_KW = times[:-1].reshape(len(kinds), len(WORK))
        return cls(kinds, np.vstack([own_KW, pooled_W1[:-1]]), float(times[-1]))

    def by_kind(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """Expected ms of N networks: in all, and of their layers by kind, shape (N, 1 + K + 1)."""
        layers = [list(space.layers(arch)) for arch in as_archs(space.id, genes_NG)]
        out_NK = np.zeros((len(genes_NG), len(self.kinds) + 1))
        for n, row in enumerate(layers):
            for layer in row:
                if layer.op not in FREE:
                    kind = layer_kind(layer)
                    k = self.kinds.index(kind) if kind in self.kinds else len(self.kinds)
                    out_NK[n, k] += float(work_by_kind([layer], [kind]) @ self.ms_KW[k])
        return np.hstack([self.base_ms + out_NK.sum(1, keepdims=True), out_NK])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As plain arrays, whose names begin with ``layer_``."""
        return {
            "layer_kinds": np.array(self.kinds, dtype=np.str_),
            "layer_ms": self.ms_KW,
            "layer_base_ms": np.array(self.base_ms),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> LayerTimes | None:
        """Inverse of ``to_arrays``; None for a predictor without them."""
        if "layer_kinds" not in arrays:
            return None
        kinds = tuple(arrays["layer_kinds"].tolist())
        return LayerTimes(kinds, arrays["layer_ms"], float(arrays["layer_base_ms"]))


def _aligned(part: MeasuredWork, kinds: Sequence[str]) -> Floats:
    out_RKW = np.zeros((len(part.latency_ms_R), len(kinds), len(WORK)))
    out_RKW[:, [kinds.index(kind) for kind in part.kinds]] = part.work_RKW
    return out_RKW


def _least_squares(x_RC: Floats, ms_R: Floats, prior_C: Floats | None) -> Floats:
    """Times that are not negative, by relative error, near ``prior_C`` (None: 0, and hardly pulled)."""
    from scipy.optimize import nnls  # takes 50 MB, and the server fits nothing

    x_RC = x_RC / ms_R[:, None]
    scale_C = np.sqrt((x_RC**2).mean(0))
    scale_C = np.where(scale_C > 0, scale_C, 1.0)
    pull = np.sqrt(len(ms_R)) * (_PULL if prior_C is not None else 1e-3)
    target_C = np.zeros(len(scale_C)) if prior_C is None else prior_C * scale_C
    design = np.vstack([x_RC / scale_C, pull * np.eye(len(scale_C))])
    times_C, _ = nnls(design, np.concatenate([np.ones(len(ms_R)), pull * target_C]))
    return np.asarray(times_C / scale_C)

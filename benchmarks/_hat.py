"""The translation space of HAT (Wang et al., ACL 2020) as a search space, and its table of latencies,
``hat_latency.npz``: what each of several devices takes for networks of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidInput
from nas.core.layers import Layer
from nas.core.ports import ImageShape
from nas.spaces.base import SpaceDefaults

GENES = 10
_TOKENS = 30.0  # of a sentence
_HEAD = 64.0  # width of a head


class HatSpace(SpaceDefaults):
    """Ten numbers describe a transformer: of the encoder and the decoder, width, layers and, averaged over layers, the
    hidden width and the heads of attention; and how many encoder layers the decoder attends to. It has neither layers
    nor a supernet here."""

    name = "hat"
    id = "hat-translation"
    params: Mapping[str, JsonValue] = {}
    shape = ImageShape(1, 1, 1, 1)

    def __init__(self, names: tuple[str, ...], values: tuple[tuple[float, ...], ...]) -> None:
        self.decisions = tuple(Decision(name, choices) for name, choices in zip(names, values, strict=True))

    def values(self, genes_NG: Genes) -> Floats:
        """The numbers that genes stand for, shape (N, 10)."""
        columns = [np.array(d.choices, dtype=np.float64)[genes_NG[:, g]] for g, d in enumerate(self.decisions)]
        return np.stack(columns, axis=1)

    def canonical(self, genes_NG: Genes) -> Genes:
        """All genes act."""
        return genes_NG

    def features(self, genes_NG: Genes) -> Floats:
        """The numbers; layers times hidden width, and layers times heads; both also times the width, shape (N, 19)."""
        values_NG = self.values(genes_NG)
        columns = [values_NG]
        for width, layers, hidden, heads in _parts(values_NG):
            columns += [np.stack([layers * h * w for h in (hidden, *heads) for w in (1.0 + 0 * width, width)], axis=1)]
        return np.hstack(columns)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """``params`` and ``macs`` of a sentence, to the leading terms."""
        params_N = np.zeros(len(genes_NG))
        for width, layers, hidden, heads in _parts(self.values(genes_NG)):
            params_N += layers * (2.0 * width * hidden + sum(4.0 * width * _HEAD * h for h in heads))
        return {"params": params_N, "macs": _TOKENS * params_N}

    def layers(self, arch: Arch) -> list[Layer]:
        """Raises InvalidInput."""
        raise InvalidInput("expected a space of images, whose layers are known, got hat")

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """Nothing that a network could be fed with."""
        return (1, 1, 1)

    def supernet(self, seed: int) -> Any:
        """Raises InvalidInput."""
        raise InvalidInput("expected a space with a supernet, got hat")


def _parts(values_NG: Floats) -> list[tuple[Floats, Floats, Floats, tuple[Floats, ...]]]:
    """Width, layers, hidden width, and heads by kind of attention: of encoder and decoder."""
    v = values_NG.T
    return [(v[0], v[1], v[2], (v[3],)), (v[4], v[5], v[6], (v[7], v[8]))]


def load_hat(path: Path) -> tuple[HatSpace, Genes, dict[str, Floats]]:
    """The space; genes of all networks (N, 10); and by task and device the latency in ms of encoder and decoder, shape
    (N,), NaN where it was not measured. Of a network that was measured twice, the mean."""
    with np.load(path, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["column"][:GENES])
        rows = {name: arrays[name].astype(np.float64) for name in arrays.files if name != "column"}
    genes_of = {name: np.round(table[:, :GENES], 3) for name, table in rows.items()}
    values = [np.unique(np.concatenate([g[:, c] for g in genes_of.values()])) for c in range(GENES)]
    space = HatSpace(names, tuple(tuple(map(float, column)) for column in values))
    all_rows = np.concatenate(list(genes_of.values()))
    networks_NG = np.unique(all_rows, axis=0)
    place = {row.tobytes(): n for n, row in enumerate(networks_NG)}
    latency = {}
    for name, table in rows.items():
        where = np.array([place[row.tobytes()] for row in genes_of[name]])
        total_N = np.bincount(where, table[:, 10] + table[:, 11], len(networks_NG))
        times_N = np.bincount(where, minlength=len(networks_NG))
        latency[name] = np.where(times_N > 0, total_N / np.maximum(times_N, 1), np.nan)
    genes_NG = np.stack([np.searchsorted(column, networks_NG[:, c]) for c, column in enumerate(values)], axis=1)
    return space, genes_NG.astype(np.int64), latency

"""The table of measured latencies of once-for-all networks, ``ofa.npz``, as genes of the mobilenet_v3 space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace


def load_ofa(space: SearchSpace, path: Path) -> tuple[Genes, tuple[str, ...], Floats]:
    """Canonical genes (N, G) in ``space`` (preset imagenet), the names of the D devices, latencies (N, D) in ms."""
    with np.load(path, allow_pickle=False) as table:
        names = tuple(str(name) for name in table["latency_device"])
        latency_ms_ND = table["latency_ms"].astype(np.float64)
        n = len(latency_ms_ND)
        resolution_N1, depth_NS = table["r"][:, None], table["d"]
        kernel_NSB, expand_NSB = (table[k].reshape(n, 5, 4) for k in ("ks", "e"))
    width_NS1 = np.ones((n, 5, 1))
    blocks_NSP = np.stack([kernel_NSB, expand_NSB], axis=3).reshape(n, 5, 8)
    stages_NP = np.concatenate([width_NS1, depth_NS[:, :, None], blocks_NSP], axis=2).reshape(n, 50)
    values_NG = np.concatenate([resolution_N1, stages_NP], axis=1)
    choices = [np.array(d.choices, dtype=float) for d in space.decisions]
    genes_NG = np.stack([np.abs(v[:, None] - c).argmin(axis=1) for v, c in zip(values_NG.T, choices, strict=True)], 1)
    return space.canonical(genes_NG), names, latency_ms_ND

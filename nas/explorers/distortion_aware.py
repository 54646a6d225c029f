"""A search space that knows how much each cut distorts a parent network."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace
from nas.explorers.allocation import Distortions
from nas.spaces.wrapper import SpaceWrapper

_SMALLEST = 1e-4  # of a distortion: less makes no difference


class DistortionAwareSpace(SpaceWrapper):
    """A space with the ``distortions`` of its cuts, whose sum tells a model of accuracy what to expect."""

    def __init__(self, inner: SearchSpace, distortions: Distortions) -> None:
        super().__init__(inner)
        self._distortions = distortions

    def log_distortion(self, genes_NG: Genes) -> Floats:
        """The logarithm of the summed distortions of N networks, shape (N,)."""
        return np.asarray(np.log(self._distortions.total(self.inner.canonical(genes_NG)) + _SMALLEST))

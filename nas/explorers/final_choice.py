"""Which of the evaluated networks are the best: by their evaluations, as far as these can be relied upon.

An evaluation is noisy, and the best of many noisy values is a lucky one. So each is drawn towards what a Gaussian
process expects of the network, by the noise that was fitted: hardly where evaluations agree with each other, further
where they do not.
"""

from __future__ import annotations

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace
from nas.explorers.gaussian_process import WarpedGP, encode, rows_to_fit

OWN_SHARE = 1 / 3  # of what a process does not explain, which is taken for the network's own, the rest for noise
MIN_SHRUNK = 8  # evaluations; the noise of fewer cannot be told


def shrunk_losses(space: SearchSpace, genes_NG: Genes, losses_N: Floats) -> Floats:
    """The losses of N evaluated networks, drawn towards the posterior mean of a process that is fitted to them."""
    if len(losses_N) < MIN_SHRUNK or np.ptp(losses_N) == 0:
        return losses_N
    inputs_NF, rows = encode(space, genes_NG), rows_to_fit(len(losses_N))
    process = WarpedGP.fit(inputs_NF[rows], losses_N[rows])
    mean_N, _ = process.posterior(inputs_NF)
    warped_N = process.warp(losses_N)
    return process.unwarp(mean_N + OWN_SHARE * (warped_N - mean_N))

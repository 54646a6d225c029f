"""How evenly the information on a network's parameters is spread: VKDNW (Tybl and Neumann, CVPR 2025).

The Fisher information is that of the distribution of outputs over a few parameters: one weight of each tensor.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

_MAX_TENSORS = 128
_SMOOTHING = 0.05  # of the distribution of outputs, towards the uniform one


def fisher_spectrum(net: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """The number of parameter tensors, at most ``_MAX_TENSORS``, plus the entropy of the deciles of the singular values
    of the Fisher information, in evaluation mode, as a share of its maximum: networks of like depth are told apart by
    how even the spectrum is."""
    net.eval()
    weights = {name: p.detach() for name, p in net.named_parameters() if p.dim() > 1}
    names = list(weights)[:_MAX_TENSORS]
    first_P = torch.stack([weights[name].flatten()[0] for name in names])

    def logits(first_P: Tensor, x_CHW: Tensor) -> Tensor:
        replaced = {
            name: torch.cat([first_P[i : i + 1], weights[name].flatten()[1:]]).view_as(weights[name])
            for i, name in enumerate(names)
        }
        output: Tensor = functional_call(net, replaced, (x_CHW[None],))
        return output[0]

    jacobian_BKP = vmap(jacrev(logits), in_dims=(None, 0), chunk_size=8)(first_P, x_BCHW)
    with torch.no_grad():
        probability_BK = net(x_BCHW).softmax(dim=1)
    information_PP = fisher_information(jacobian_BKP.detach().double(), probability_BK.double())
    return len(names) + decile_entropy(information_PP) / log(9.0)


def fisher_information(jacobian_BKP: Tensor, probability_BK: Tensor) -> Tensor:
    """Mean over images of ``J' C J``, shape (P, P), C the covariance of the smoothed categorical distribution."""
    classes = probability_BK.shape[1]
    p_BK = (1.0 - _SMOOTHING) * probability_BK + _SMOOTHING / classes
    mean_BP = torch.einsum("bk,bkp->bp", p_BK, jacobian_BKP)
    centred_BKP = jacobian_BKP - mean_BP[:, None]
    return torch.einsum("bkp,bk,bkq->pq", centred_BKP, p_BK, centred_BKP) / len(p_BK)


def decile_entropy(information_PP: Tensor) -> float:
    """Entropy of the deciles of the singular values by their sum: at most log 9, where all are equal, and 0 where all
    are 0."""
    values = torch.linalg.svdvals(information_PP)
    deciles = torch.quantile(values, torch.arange(1, 10, dtype=values.dtype) / 10.0)
    if float(deciles.sum()) <= 0.0:
        return 0.0
    share = deciles / deciles.sum()
    return float(-torch.xlogy(share, share).sum())

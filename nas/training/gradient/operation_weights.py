"""From architecture parameters (logits) to operation weights, and temperature schedules. Tables are (E, O): edges by
operations.

Removed operations (False in ``mask``) weigh exactly 0 and take no part in a softmax; a row without any is all zeros.
ProxylessNAS: Cai et al., ICLR 2019.
Gumbel softmax: Jang et al., and Maddison et al., ICLR 2017; its straight-through form: GDAS (Dong and Yang, CVPR 2019).
Dirichlet: DrNAS (Chen et al., ICLR 2021).
"""

from __future__ import annotations

import math

import torch

Tensor = torch.Tensor


def softmax(alphas_EO: Tensor, mask_EO: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax of every row over what the mask leaves."""
    alive_E1 = mask_EO.any(dim=1, keepdim=True)
    # A dead row goes through the softmax as if alive, since -inf alone gives NaN gradients.
    logits = (alphas_EO / temperature).masked_fill(~mask_EO & alive_E1, -math.inf)
    return logits.softmax(dim=1) * alive_E1


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent standard Gumbel draws of the shape of ``like``."""
    u = torch.rand(like.shape, generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
    return (-(-u.log()).log()).to(like)


def gumbel_soft(alphas_EO: Tensor, mask_EO: Tensor, temperature: float, noise_EO: Tensor) -> Tensor:
    """A relaxed sample: softmax of noisy logits."""
    return softmax(alphas_EO.log_softmax(dim=1) + noise_EO, mask_EO, temperature)


def gumbel_hard(alphas_EO: Tensor, mask_EO: Tensor, temperature: float, noise_EO: Tensor) -> Tensor:
    """A sample, one-hot, with the gradient of the relaxed one. Its zeros and ones are exact."""
    soft_EO = gumbel_soft(alphas_EO, mask_EO, temperature, noise_EO)
    hard_EO = torch.zeros_like(soft_EO).scatter_(1, soft_EO.argmax(dim=1, keepdim=True), 1.0)
    hard_EO = hard_EO * mask_EO.any(dim=1, keepdim=True)
    return hard_EO + (soft_EO - soft_EO.detach())


def drawn_paths(alphas_EO: Tensor, mask_EO: Tensor, noise_EO: Tensor, paths: int) -> Tensor:
    """``paths`` operations of every row, drawn by the softmax of the logits without replacement, as a bool table; fewer
    where the mask leaves fewer. The largest noisy logits are such a draw."""
    noisy = (alphas_EO.detach().log_softmax(dim=1) + noise_EO).masked_fill(~mask_EO, -math.inf)
    top = noisy.topk(min(paths, noisy.shape[1]), dim=1).indices
    return torch.zeros_like(mask_EO).scatter_(1, top, True) & mask_EO


def binary_gates(alphas_EO: Tensor, pair_EO: Tensor, noise_EO: Tensor) -> Tensor:
    """One operation of each row's drawn pair, one-hot, with the gradient of the pair's softmax: dL/dalpha is the sum
    over the pair of dL/dgate p (delta - p) (ProxylessNAS, equation 4, section 3.2.1)."""
    soft_EO = softmax(alphas_EO, pair_EO)
    hard_EO = drawn_paths(alphas_EO, pair_EO, noise_EO, 1).to(soft_EO)
    return hard_EO + (soft_EO - soft_EO.detach())


def rescaled(before_EO: Tensor, after_EO: Tensor, pair_EO: Tensor) -> Tensor:
    """Logits after an update of each row's pair, shifted so that no operation outside the pair becomes more or less
    likely (section 3.2.1)."""
    total = [a.masked_fill(~pair_EO, -math.inf).logsumexp(dim=1, keepdim=True) for a in (before_EO, after_EO)]
    return torch.where(pair_EO, after_EO + (total[0] - total[1]), before_EO)


def sparse_noisy(alphas_EO: Tensor, mask_EO: Tensor, temperature: float, sigma: float, noise_EO: Tensor) -> Tensor:
    """Softmax at a small temperature whose leaders are pushed down by ``sigma`` times half-normal noise, so that a
    saturated row still has a gradient; the other operations get no noise."""
    leader_E1 = alphas_EO.masked_fill(~mask_EO, -math.inf).argmax(dim=1, keepdim=True)
    push_EO = torch.zeros_like(alphas_EO).scatter(1, leader_E1, noise_EO.abs().gather(1, leader_E1))
    return softmax(alphas_EO - sigma * push_EO, mask_EO, temperature)


def sigmoid(alphas_EO: Tensor, mask_EO: Tensor) -> Tensor:
    """Every operation by itself (GOLD-NAS)."""
    return alphas_EO.sigmoid() * mask_EO


def concentrations(alphas_EO: Tensor) -> Tensor:
    """Those of a Dirichlet distribution for each row: elu(alpha) + 1, which is 1 (uniform) where a logit is 0."""
    return torch.nn.functional.elu(alphas_EO) + 1.0 + 1e-6


def dirichlet(alphas_EO: Tensor, mask_EO: Tensor, seed: int) -> Tensor:
    """A draw of every row's weights with its pathwise derivative. Rows without their removed operations, divided by
    what is left, are draws of the remaining ones."""
    concentration_EO = concentrations(alphas_EO).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn_EO = torch.distributions.Dirichlet(concentration_EO, validate_args=False).rsample()
    return _among(drawn_EO.to(alphas_EO), mask_EO)


def dirichlet_mean(alphas_EO: Tensor, mask_EO: Tensor) -> Tensor:
    """The expected weights of every row over what the mask leaves."""
    return _among(concentrations(alphas_EO), mask_EO)


def anchor_distance(alphas_EO: Tensor, mask_EO: Tensor) -> Tensor:
    """How far the concentrations are from those of the uniform distribution: the norm of their differences from 1."""
    distance: Tensor = ((concentrations(alphas_EO) - 1.0) * mask_EO).norm()
    return distance


def log_sum_exp(alphas_EO: Tensor, mask_EO: Tensor) -> Tensor:
    """Mean over living rows of the log-sum-exp of what the mask leaves: beta decay (Ye et al., CVPR 2022). Its gradient
    is the softmax divided by the number of rows, so that it lowers the largest logit most."""
    alive_E = mask_EO.any(dim=1)
    logits = alphas_EO[alive_E].masked_fill(~mask_EO[alive_E], -math.inf)
    return logits.logsumexp(dim=1).mean()


def _among(weights_EO: Tensor, mask_EO: Tensor) -> Tensor:
    left_EO = weights_EO * mask_EO
    return left_EO / left_EO.sum(dim=1, keepdim=True).clamp_min(1e-12)


def row_entropy(p_EO: Tensor) -> Tensor:
    """Entropy of every row that is a distribution in nats, shape (rows,); rows of zeros are left out."""
    rows = p_EO[p_EO.sum(dim=1) > 0]
    entropy: Tensor = torch.special.entr(rows).sum(dim=1)
    return entropy


def linear(start: float, end: float, epoch: int, epochs: int) -> float:
    """``start`` in the first epoch, ``end`` in the last."""
    return start + (end - start) * (epoch / max(1, epochs - 1))


def exponential(start: float, end: float, epoch: int, epochs: int) -> float:
    """The same factor from each epoch to the next."""
    return start * math.pow(end / start, epoch / max(1, epochs - 1))


def temperature_for_entropy(alphas_EO: Tensor, mask_EO: Tensor, target: float) -> float:
    """The temperature between 0.001 and 10 at which the mean entropy of the rows is ``target``, by bisection.

    Entropy grows with temperature. Rows of equal logits say nothing and are left out; 1.0 where none is left.
    """
    alphas = alphas_EO.detach().double()
    low_E = alphas.masked_fill(~mask_EO, math.inf).amin(dim=1)
    high_E = alphas.masked_fill(~mask_EO, -math.inf).amax(dim=1)
    tells_E = high_E > low_E
    if not bool(tells_E.any()):
        return 1.0
    alphas, mask = alphas[tells_E], mask_EO[tells_E]
    low, high = math.log(1e-3), math.log(10.0)
    for _ in range(60):
        middle = (low + high) / 2
        if float(row_entropy(softmax(alphas, mask, math.exp(middle))).mean()) > target:
            high = middle
        else:
            low = middle
    return math.exp((low + high) / 2)


def edge_weights(betas_E: Tensor, nodes: tuple[int, ...]) -> Tensor:
    """Softmax over the edges that end in the same node, shape (E,) (PC-DARTS, section 3.2)."""
    ends = torch.tensor(nodes, device=betas_E.device)
    same_EE = ends[:, None] == ends[None, :]
    return betas_E[None, :].expand(len(nodes), -1).masked_fill(~same_EE, -math.inf).softmax(dim=1).diagonal()

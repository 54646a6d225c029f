"""The adaptive alpha divergence by which students learn from a teacher in AlphaNet (Wang et al., ICML 2021, section 3).

The Kullback-Leibler divergence hardly punishes a student that is sure where its teacher is not. A divergence of
negative alpha does, one of positive alpha punishes the opposite; for each image the larger of both is learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nas.training.criterion import NetworkOutputs

ALPHAS = (-1.0, 1.0)
CLIP = 5.0
Tensor = torch.Tensor


def alpha_divergence_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Logits of both, without gradients to the teacher -> the mean over images of the larger divergence.

    Its gradient is that of -sum q rho log q with q and rho held fixed, where q are the student's probabilities, which
    bounds the variance of the importance weights ``rho`` (equation 7 of the paper).
    """
    log_p, log_q = F.log_softmax(teacher_BK.detach(), dim=1), F.log_softmax(student_BK, dim=1)
    divergences_AB = torch.stack([_divergence(log_p, log_q.detach(), a) for a in ALPHAS])
    surrogates_AB = torch.stack([_surrogate(log_p, log_q, a) for a in ALPHAS])
    larger_1B = divergences_AB.argmax(dim=0, keepdim=True)
    value_B, surrogate_B = divergences_AB.gather(0, larger_1B), surrogates_AB.gather(0, larger_1B)
    loss: Tensor = (value_B + surrogate_B - surrogate_B.detach()).mean()
    return loss


def _divergence(log_p_BK: Tensor, log_q_BK: Tensor, alpha: float) -> Tensor:
    """D of teacher p and student q in nats, shape (B,): (sum q r^alpha - 1) / (alpha (alpha - 1)) with r = p / q, whose
    power is clipped; for alpha = 1 its limit, the Kullback-Leibler divergence."""
    if alpha == 1.0:
        return (log_p_BK.exp() * (log_p_BK - log_q_BK)).sum(1)
    return ((log_q_BK.exp() * _power(log_p_BK, log_q_BK, alpha)).sum(1) - 1.0) / (alpha * (alpha - 1.0))


def _surrogate(log_p_BK: Tensor, log_q_BK: Tensor, alpha: float) -> Tensor:
    fixed_q_BK = log_q_BK.detach()
    rho_BK = _power(log_p_BK, fixed_q_BK, alpha) / alpha
    return -(fixed_q_BK.exp() * rho_BK * log_q_BK).sum(1)


def _power(log_p_BK: Tensor, log_q_BK: Tensor, alpha: float) -> Tensor:
    return (alpha * (log_p_BK - log_q_BK)).exp().clamp(max=CLIP)


def alpha_divergence_of(outputs: NetworkOutputs, target: NetworkOutputs) -> torch.Tensor:
    """The alpha divergence of networks that classify."""
    assert isinstance(outputs, torch.Tensor)
    assert isinstance(target, torch.Tensor)
    return alpha_divergence_loss(outputs, target)

"""Signs of collapse in differentiable search: too many identities, frozen architecture parameters, a sharp loss.

Identities help the weights of all others to learn, so their own weight grows beyond what they are worth in a network
(Zela et al., ICLR 2020; Chu et al., Fair DARTS, ECCV 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.training.gradient.early_stopping import RATIO, stop_epoch

FROZEN = 0.1  # of the largest entropy
UNDECIDED = 0.999  # of the largest entropy: probabilities within about 6 % of uniform


def signs_of_collapse(
    *,
    skip_share: float,
    skip_limit: float,
    parameter_free_share: float,
    entropy: float,
    operations: int,
    cooled: bool,
    progress: float,
    search_epochs: int,
    eigenvalues: Sequence[tuple[int, float]],
) -> list[str]:
    """Messages for people, empty without signs. ``entropy``: mean over rows, in nats, of the operation weights at
    temperature 1; it may be small late (``progress`` from 0 to 1) or where it is ``cooled`` on purpose."""
    signs = []
    if skip_share > skip_limit:
        signs.append(f"{skip_share:.0%} of the discretised cell's operations are identities (limit {skip_limit:.0%})")
    elif parameter_free_share >= 1.0:
        signs.append("the discretised cell has no operation with parameters")
    if not cooled and progress < 0.5 and entropy < FROZEN * math.log(operations):
        largest = math.log(operations)
        signs.append(f"the architecture parameters froze early: their entropy is {entropy:.3g} of {largest:.3g} nats")
    if stop_epoch(eigenvalues, search_epochs) is not None:
        signs.append(
            f"the dominant eigenvalue has grown by more than {RATIO - 1:.0%} to {eigenvalues[-1][1]:.3g}: the loss "
            "sharpens, so the cell may do worse than the relaxation"
        )
    return signs


def undecided(entropy: float, largest: float) -> str | None:
    """A message for architecture parameters that end the search near the ``largest`` entropy (both in nats): their
    discretised network is arbitrary."""
    if largest == 0.0 or entropy < UNDECIDED * largest:
        return None
    return (
        f"the architecture parameters are undecided: their entropy is {entropy:.5g} of at most {largest:.5g} nats, so "
        "the discretised cell is arbitrary; more epochs or a larger alpha_lr may help"
    )

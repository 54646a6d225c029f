"""What a rank correlation with networks that were trained from scratch shows of a supernet, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.core.arch import Floats
from nas.core.metrics import kendall, kendall_interval

MAX_NETWORKS, MIN_NETWORKS = 12, 6  # trained alone by default; the order of fewer shows nothing
_SHARE = 0.1  # of the training of a supernet, which they may take by default
LOW_TAU, HIGH_TAU = 0.4, 0.7  # below, an order is of little more use than the number of MACs; above, it can be followed

Interval = tuple[float, float]


@dataclass(frozen=True)
class Tau:
    """Kendall's tau over ``networks`` networks with its 95 % bootstrap ``interval``, None for too few networks."""

    value: float
    networks: int
    interval: Interval | None = None

    @staticmethod
    def of(estimate_N: Floats, truth_N: Floats) -> Tau | None:
        """That of N networks; None where all are estimated, or turn out, alike."""
        value = kendall(estimate_N, truth_N)
        return None if math.isnan(value) else Tau(value, len(truth_N), kendall_interval(estimate_N, truth_N))

    @property
    def conclusive(self) -> bool:
        """Whether it shows an order at all: its interval does not hold zero."""
        return self.interval is not None and not spans_zero(self.interval)

    def __str__(self) -> str:
        interval = (
            "too few for an interval"
            if self.interval is None
            else "95 % interval {:.2f} to {:.2f}".format(*self.interval)
        )
        return f"{self.value:.2f} on {self.networks} networks trained from scratch ({interval})"


def spans_zero(interval: Interval) -> bool:
    """Whether the interval holds zero."""
    low, high = interval
    return low <= 0.0 <= high


def rank_advice(
    before: Tau | None, after: Tau | None, one_shot: Tau | None = None, gain: Interval | None = None
) -> str:
    """Whether the order of the subspaces' estimates can be followed, and what the split has gained. None: all were
    estimated alike, so there is no order. ``one_shot`` is of the undivided supernet after as many steps, where that was
    trained; ``gain`` is the interval of the difference to it."""
    sentences = [describe_tau(after)]
    if after is not None and one_shot is not None:
        than = f"than the same training without it ({after.value:.2f} against {one_shot.value:.2f})"
        if gain is None or spans_zero(gain):
            interval = "" if gain is None else ": the difference may be {:.2f} to {:.2f}".format(*gain)
            sentences.append(f"The split ranks neither clearly better nor worse {than}{interval}.")
        elif after.value > one_shot.value:
            sentences.append(f"The split ranks better {than}.")
        else:
            sentences.append(
                f"The split ranks worse {than}: once_for_all or fewer subspaces may serve this space better."
            )
    elif after is not None and before is not None:
        sentences.append(f"Before the split, after the warm-up alone, tau was {before.value:.2f}.")
    return " ".join(sentences)


def describe_tau(tau: Tau | None) -> str:
    """A sentence on how far a ranking with this tau is reliable; None without a tau."""
    if tau is None:
        return "All networks were estimated alike, so there is no order to follow: train for more epochs."
    if not tau.conclusive:
        return f"Kendall's tau is {tau}: too uncertain to show whether the estimates rank: use more rank_networks."
    if tau.value < LOW_TAU:
        return (
            f"Do not trust the order of the estimates: Kendall's tau is {tau}, below {LOW_TAU}. Train for more epochs, "
            "or let 'retrain' decide between the networks of the front."
        )
    assert tau.interval is not None
    if tau.interval[0] < LOW_TAU:
        return f"The order of the estimates is fair, but hardly proven: Kendall's tau is {tau}."
    if tau.value < HIGH_TAU:
        return f"The order of the estimates can be followed where networks differ clearly: Kendall's tau is {tau}."
    return f"The order of the estimates can be trusted: Kendall's tau is {tau}."


def retrained_advice(tau: Tau | None) -> str:
    """A sentence on how far estimates can be followed, by the networks of a search that were then trained alone."""
    if tau is None:
        return "All retrained networks had been estimated alike, so nothing is known of the order of the estimates."
    if not tau.conclusive:
        return (
            f"Kendall's tau of the retrained networks is {tau}: too uncertain to show whether the estimates rank; "
            "retrain more networks to know."
        )
    if tau.value < LOW_TAU:
        return (
            f"Do not trust the order of the estimates where nothing was retrained: Kendall's tau is {tau}, below "
            f"{LOW_TAU}. Retrain more networks of the front."
        )
    return describe_tau(tau)


def check_rank_networks(networks: int | None) -> None:
    """Raises ValueError for so few networks that they have no order."""
    if networks is not None and 0 < networks < 4:
        raise ValueError(f"rank_networks: expected 0, or at least 4 for a ranking, got {networks}")


def rank_networks_of(networks: int | None, rank_epochs: int, network_epochs: float) -> int:
    """How many networks are trained alone, for ``rank_epochs`` each: as many as a spec says, or by default as many as
    take less than a tenth of the supernet's own training, which takes as long as ``network_epochs`` of one network;
    none where that is too few to show an order."""
    if networks is not None:
        return networks
    affordable = min(MAX_NETWORKS, int(_SHARE * network_epochs / rank_epochs))
    return affordable if affordable >= MIN_NETWORKS else 0

"""What a rank correlation with networks that were trained from scratch shows of a supernet, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

LOW_TAU, HIGH_TAU = 0.4, 0.7  # below, an order is of little more use than the number of MACs; above, it can be followed

Interval = tuple[float, float]


@dataclass(frozen=True)
class Tau:
    """Kendall's tau over ``networks`` networks with its 95 % bootstrap ``interval``, None for too few networks."""

    value: float
    networks: int
    interval: Interval | None = None

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

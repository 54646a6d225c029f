"""What a rank correlation with networks that were trained from scratch says about a supernet, in words."""

from __future__ import annotations

import math

LOW_TAU, HIGH_TAU = (
    0.4,
    0.7,
)  # below, an order is of little more use than the number of MACs; above, it is worth following


def tau_deviation(networks: int) -> float:
    """The standard deviation of Kendall's tau between unrelated orders of so many networks (Kendall, Rank correlation
    methods, 1948, section 5.2)."""
    return math.sqrt(2 * (2 * networks + 5) / (9 * networks * (networks - 1)))


def rank_advice(networks: int, before: float | None, after: float | None, one_shot: float | None = None) -> str:
    """Whether to believe the order of the subspaces' estimates, and what the split has gained. None: all were estimated
    alike, so there is no order. ``one_shot`` is of the undivided supernet after as many steps, where that was trained.
    """
    sentences = [describe_tau(networks, after)]
    if after is not None and one_shot is not None:
        gain, noise = after - one_shot, tau_deviation(networks)
        than = f"than the same training without it ({after:.2f} against {one_shot:.2f})"
        if gain >= noise:
            sentences.append(f"The split ranks better {than}.")
        elif gain <= -noise:
            sentences.append(
                f"The split ranks worse {than}: once_for_all or fewer subspaces may serve this space better."
            )
        else:
            sentences.append(
                f"The split ranks neither clearly better nor worse {than}: on {networks} networks, differences below "
                f"{noise:.2f} may be chance."
            )
    elif after is not None and before is not None:
        sentences.append(f"Before the split, after the warm-up alone, tau was {before:.2f}.")
    return " ".join(sentences)


def describe_tau(networks: int, tau: float | None) -> str:
    """Whether to believe an order of such a tau; None: there is none."""
    if tau is None:
        return "All networks were estimated alike, so there is no order to trust: train for more epochs."
    measured = f"Kendall tau is {tau:.2f} on {networks} networks trained from scratch"
    if tau < LOW_TAU:
        return (
            f"Do not trust the order of the estimates: {measured}, below {LOW_TAU}. Train for more epochs, or let "
            "'retrain' decide between the networks of the front."
        )
    if tau - tau_deviation(networks) < LOW_TAU:
        return f"The order of the estimates is fair, but hardly proven: {measured}. More rank_networks tell more."
    if tau < HIGH_TAU:
        return f"The order of the estimates can be followed where networks differ clearly: {measured}."
    return f"The order of the estimates can be trusted: {measured}."

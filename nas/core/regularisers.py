"""Training-only regularisers of a space's networks, and their strengths."""

from __future__ import annotations

from nas.core.errors import InvalidSpec
from nas.core.ports import SearchSpace
from nas.core.retraining import RetrainSpec


def regularisers(spec: RetrainSpec, space: SearchSpace) -> dict[str, float]:
    """Strengths of ``drop_path`` and ``auxiliary``: the spec's, else the space's published ones.

    A space that supports them has ``regularisers``, published strengths by name. Raises InvalidSpec for a regulariser
    that the space does not support.
    """
    offered = space.regularisers
    strengths = {}
    for name in ("drop_path", "auxiliary"):
        strength = getattr(spec, name)
        if strength and name not in offered:
            valid = ", ".join(offered) or "none"
            raise InvalidSpec(
                f"retrain.{name}: networks of {space.name} cannot be trained with it; they offer: {valid}"
            )
        strengths[name] = float(offered.get(name, 0.0) if strength is None else strength)
    return strengths

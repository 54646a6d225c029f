"""What a space's networks can be trained with beside augmentation and weight decay, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping

from nas.core.errors import InvalidSpec
from nas.core.ports import SearchSpace
from nas.core.spec import RetrainSpec


def regularisers(wanted: RetrainSpec, space: SearchSpace) -> dict[str, float]:
    """``drop_path`` and ``auxiliary``: what the spec says, else what the space was published with.

    A space that offers them has ``regularisers``, its own strengths by name. Raises InvalidSpec for one that the space
    does not offer.
    """
    offered: Mapping[str, float] = getattr(space, "regularisers", {})
    found = {}
    for name in ("drop_path", "auxiliary"):
        strength = getattr(wanted, name)
        if strength and name not in offered:
            known = ", ".join(offered) or "none"
            raise InvalidSpec(
                f"retrain.{name}: networks of {space.name} cannot be trained with it; they offer: {known}"
            )
        found[name] = float(offered.get(name, 0.0) if strength is None else strength)
    return found

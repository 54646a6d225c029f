"""What a finished search comes to, where that is not a front of networks that have learned something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ConclusionCode = Literal["bounds_unmet", "no_front", "chance_level", "majority_level"]


@dataclass(frozen=True)
class Conclusion:
    """``bounds_unmet``: no network meets every bound. ``no_front``: none is on the front for another reason.
    ``chance_level``, ``majority_level``: no network is better than guessing, or than naming the largest class.
    ``message``: a sentence for people."""

    code: ConclusionCode
    message: str

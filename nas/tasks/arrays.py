"""What several tasks share: classes in arrays, and outputs of a network as one or several tensors."""

from __future__ import annotations

from typing import Any

from nas.core.errors import InvalidInput
from nas.core.tasks import LossOptions


def reduction(options: LossOptions) -> str:
    """As torch's losses name it."""
    return "sum" if options.summed else "mean"


def tensors(outputs: Any) -> tuple[Any, ...]:
    """The tensors that a network gives; most give one."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def mean_share(shares: tuple[float | None, ...]) -> float:
    """The mean over classes that have a share. Raises InvalidInput where none has."""
    present = [share for share in shares if share is not None]
    if not present:
        raise InvalidInput("a network is judged by the labels of images: expected some, got none")
    return sum(present) / len(present)

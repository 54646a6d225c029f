"""What several tasks share: classes in arrays, and outputs of a network as one or several tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidInput
from nas.core.tasks import LossOptions


def reduction(options: LossOptions) -> str:
    """As torch's losses name it."""
    return "sum" if options.summed else "mean"


def tensors(outputs: Any) -> tuple[Any, ...]:
    """The tensors that a network gives; most give one."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def shares_by_class(right_K: NDArray[Any], total_K: NDArray[Any]) -> tuple[float | None, ...]:
    """``right_K`` of ``total_K`` for each class, in %; None for a class with none."""
    return tuple(100.0 * r / t if t else None for r, t in zip(right_K.tolist(), total_K.tolist(), strict=True))


def mean_share(shares: tuple[float | None, ...]) -> float:
    """The mean over classes that have a share. Raises InvalidInput where none has."""
    present = [share for share in shares if share is not None]
    if not present:
        raise InvalidInput("a network is judged by the labels of images: expected some, got none")
    return float(np.mean(present))

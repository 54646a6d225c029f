"""Which activations a network holds at once, and how much memory they take: exactly, and for many networks together.

Counted are the tensors that depend on the input, batch 1: the input itself and the output of every operator of the
exported graph, in its order. A tensor lives from the operator that makes it to the last one that reads it; while an
operator runs, all that it reads and all that it makes live. Not counted are weights and a runtime's own buffers, and no
operator overwrites its input: a runtime that does so, or that fuses operators, needs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats

Rows = NDArray[np.int64]
NONE = 0  # the operator that is not there


def peak(size_NT: Floats, last_NT: Rows) -> Floats:
    """The most that lives at once in each of N networks, shape (N,). Tensor t is made in step t and is last read in
    step ``last_NT``."""
    n, steps = size_NT.shape
    change_NT = np.zeros((n, steps + 1))
    change_NT[:, :steps] = size_NT
    np.subtract.at(change_NT, (np.arange(n)[:, None], last_NT + 1), size_NT)
    return np.asarray(change_NT.cumsum(axis=1).max(axis=1))


def chain(sizes: Sequence[float], held: float = 0.0) -> float:
    """The most that lives at once where each tensor is made from the one before, and ``held`` lives all the time."""
    return held + max(a + b for a, b in pairwise(sizes))


class Trace:
    """The steps of N networks that differ in their operators, written down one after the other.

    A tensor is the number of the step that made it, by network: shape (N,). As in an exported graph, an operator that
    was applied to the same tensors before is not repeated.
    """

    def __init__(self, n: int, most: int) -> None:
        self._n, self._most, self._now = n, most, 0
        self._rows = np.arange(n)
        self._shared: list[int] = []  # steps that may be repeated
        self._key_TN = np.full((most, n), -1, dtype=np.int64)
        self._own_TN = np.zeros((most, n), dtype=bool)
        self._size_TN = np.zeros((most, n))
        self._last_TN = np.tile(np.arange(most)[:, None], (1, n))

    def given(self, size: float) -> Rows:
        """A tensor that is there from the beginning."""
        return self.step(self.own(), [], size)

    def own(self) -> int:
        """An operator with weights of its own: like no other, applied to whatever."""
        return _OWN + self._now

    def step(self, operator: Rows | int, inputs: Sequence[Rows], size: Floats | float) -> Rows:
        """What an operator makes, of ``size``. Where it is ``NONE`` nothing is done: the first input is passed on."""
        now, self._now = self._now, self._now + 1
        operator_N = np.broadcast_to(operator, self._n).astype(np.int64)
        runs = new = operator_N != NONE
        made_N = np.full(self._n, now)
        self._own_TN[now] = operator_N >= _OWN
        if (runs & ~self._own_TN[now]).any():
            key_N = operator_N
            for tensor_N in inputs:
                key_N = key_N * (self._most + 1) + tensor_N + 1
            for t in self._shared:
                known = runs & (self._key_TN[t] == key_N)
                made_N[known] = t
                new = new & ~known
            self._shared.append(now)
            self._key_TN[now, new] = key_N[new]
        self._size_TN[now] = np.where(new, size, 0.0)
        rows = self._rows[new]
        for tensor_N in inputs:
            self._last_TN[tensor_N[rows], rows] = now
        return made_N if not inputs else np.where(runs, made_N, inputs[0])

    def made_by_own(self, tensor_N: Rows) -> NDArray[np.bool_]:
        """Which of the tensors are made by operators with weights of their own, shape (N,)."""
        made: NDArray[np.bool_] = self._own_TN[tensor_N, self._rows]
        return made

    def keep(self, tensor_N: Rows) -> None:
        """Until the end."""
        self._last_TN[tensor_N, self._rows] = self._most - 1

    def peak(self) -> Floats:
        """The most that lives at once, shape (N,)."""
        return peak(self._size_TN.T, self._last_TN.T)


_OWN = 1000

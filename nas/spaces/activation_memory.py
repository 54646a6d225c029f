"""Activation memory: how many numbers live at once while an exported model runs, exactly, for one network or many.

Counted are the tensors that depend on the input, batch 1: the input itself and the output of every operator of the
exported graph, in its order. A tensor lives from the operator that makes it to the last one that reads it; while an
operator runs, all that it reads and all that it makes live. Not counted are weights and a runtime's own buffers, and no
operator overwrites its input: a runtime that does so, or that fuses operators, needs less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.spaces.exported_graph import ExportedGraph

Values = NDArray[np.int64]  # tensors by the step that makes them, one for each network, shape (N,); -1: none
NO_OPERATOR = 0
_OWN = 1000  # operators from operators on have weights


def peak(size_NT: Floats, last_NT: Values) -> Floats:
    """The most that lives at once in each of N networks, shape (N,). Tensor t is made in step t and is last read in
    step ``last_NT``."""
    n, steps = size_NT.shape
    change_NT = np.zeros((n, steps + 1))
    change_NT[:, :steps] = size_NT
    np.subtract.at(change_NT, (np.arange(n)[:, None], last_NT + 1), size_NT)
    return np.asarray(change_NT.cumsum(axis=1).max(axis=1))


def graph_peak(graph: ExportedGraph, kept_nodes: Collection[str] = ()) -> int:
    """The most numbers that live at once in one graph. Outputs of the nodes in ``kept_nodes`` live to its end."""
    sizes = [*graph.input_sizes, *(operator.size for operator in graph.operators)]
    first = [0] * len(graph.input_sizes) + list(range(len(graph.operators)))
    last = first.copy()
    for step, operator in enumerate(graph.operators):
        for value in operator.inputs:
            last[value] = step
    steps = max(len(graph.operators), 1)
    for name in kept_nodes:
        last[graph.value_of[name]] = steps - 1
    change = [0] * (steps + 1)
    for size, begin, end in zip(sizes, first, last, strict=True):
        change[begin] += size
        change[end + 1] -= size
    return max(accumulate(change))


class PopulationTrace:
    """The operators of N networks that differ in them, appended one step after another.

    As in an exported graph, an operator without weights that was applied to the same tensors before is not repeated.
    """

    def __init__(self, n: int, max_steps: int) -> None:
        self._n, self._max_steps, self._now = n, max_steps, 0
        self._rows = np.arange(n)
        self._kinds: dict[str, int] = {}
        self._shared: list[int] = []  # steps of operators without weights
        self._key_TN = np.full((max_steps, n), -1, dtype=np.int64)
        self._convolution_TN = np.zeros((max_steps, n), dtype=bool)
        self._size_TN = np.zeros((max_steps, n))
        self._last_TN = np.tile(np.arange(max_steps)[:, None], (1, n))

    def add_input(self, size: float) -> Values:
        """A tensor that exists from the beginning."""
        return self.step(self.own(), [], size)

    def own(self) -> int:
        """The code of an operator with weights of its own, which is never shared."""
        return _OWN + self._now

    def kind(self, name: str) -> int:
        """The code of an operator without weights."""
        return self._kinds.setdefault(name, len(self._kinds) + 1)

    def step(self, operator: Values | int, inputs: Sequence[Values], size: Floats | float) -> Values:
        """The output, of ``size``, of an operator by its code in each network. Where that is ``NO_OPERATOR``, the first
        input is passed on."""
        now, self._now = self._now, self._now + 1
        operator_N = np.broadcast_to(operator, self._n).astype(np.int64)
        runs = new = operator_N != NO_OPERATOR
        made_N = np.full(self._n, now)
        shared_N = runs & (operator_N < _OWN)
        if shared_N.any():
            key_N = operator_N
            for tensor_N in inputs:
                key_N = key_N * (self._max_steps + 1) + tensor_N + 1
            for t in self._shared:
                repeated = shared_N & (self._key_TN[t] == key_N)
                made_N[repeated] = t
                new = new & ~repeated
            self._shared.append(now)
            self._key_TN[now] = np.where(new & shared_N, key_N, -1)
        self._size_TN[now] = np.where(new, size, 0.0)
        for tensor_N in inputs:
            rows = self._rows[new & (tensor_N >= 0)]
            self._last_TN[tensor_N[rows], rows] = now
        return made_N if not inputs else np.where(runs, made_N, inputs[0])

    def choose(self, graphs: Sequence[ExportedGraph], choice_N: Values, inputs: Sequence[Values]) -> Values:
        """The output of one of ``graphs`` in each network, applied to ``inputs``; all graphs have as many inputs."""
        values = list(inputs)
        for k in range(max(len(graph.operators) for graph in graphs)):
            operators = [graph.operators[k] if k < len(graph.operators) else None for graph in graphs]
            codes = [NO_OPERATOR if o is None else self.own() if o.weights else self.kind(o.kind) for o in operators]
            arity = max(len(o.inputs) for o in operators if o is not None)
            reads = np.full((arity, len(graphs)), -1)
            for g, operator in enumerate(operators):
                if operator is not None:
                    reads[: len(operator.inputs), g] = operator.inputs
            tensors = [self._pick(values, read_G[choice_N]) for read_G in reads]
            convolves = np.array([o is not None and o.kind == "Conv" for o in operators])
            self._convolution_TN[self._now] = convolves[choice_N]
            sizes = np.array([0.0 if o is None else o.size for o in operators])
            values.append(self.step(np.array(codes)[choice_N], tensors, sizes[choice_N]))
        return self._pick(values, np.array([graph.output for graph in graphs])[choice_N])

    def _pick(self, values: Sequence[Values], position_N: Values) -> Values:
        value_N: Values = np.stack(values)[position_N, self._rows]
        return np.where(position_N < 0, -1, value_N)

    def made_by_convolution(self, tensor_N: Values) -> NDArray[np.bool_]:
        """A mask of the tensors that are outputs of convolutions, shape (N,)."""
        is_convolution_N: NDArray[np.bool_] = self._convolution_TN[tensor_N, self._rows]
        return is_convolution_N

    def keep(self, tensor_N: Values) -> None:
        """Keep a tensor to the end."""
        self._last_TN[tensor_N, self._rows] = self._max_steps - 1

    def peak(self) -> Floats:
        """The most that lives at once, shape (N,)."""
        return peak(self._size_TN.T, self._last_TN.T)

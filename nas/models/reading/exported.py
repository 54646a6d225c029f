"""A ``torch.export`` program (``.pt2``) as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.operators import (
    FACTORIES,
    BatchNormOp,
    BinaryOp,
    Conv2dOp,
    ConvTranspose2dOp,
    ExpandOp,
    GraphOperator,
    GroupNormOp,
    LayerNormOp,
    LinearOp,
    MatMulOp,
    OpaqueOp,
    PermuteOp,
    PReluOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnsqueezeOp,
)
from nas.models.graph import GraphNode, GraphValue, InvalidModel, ModelGraph, TensorShape
from nas.models.reading.archive import ExportArchive
from nas.models.reading.aten import ALIASES, TRANSLATIONS, Arguments
from nas.models.reading.einsum import as_matrix_product, as_permutation
from nas.models.reading.model import ReadModel
from nas.models.reading.normalising import normalise
from nas.models.reading.opaque_calls import data_type, encode, opaque_operators
from nas.models.reading.program import (
    DataType,
    OperatorCall,
    Program,
    SymbolicSize,
    TensorName,
    UnknownOperator,
    parse_program,
)
from nas.models.shapes import check_shapes, infer_node

_ATTENTION, _EINSUM, _CONV1D = "aten.scaled_dot_product_attention", "aten.einsum", "aten.conv1d"
_SPLITS = ("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.unbind", "aten.tensor_split")
_VIEWS = (ReshapeOp, PermuteOp, SliceOp, SqueezeOp, UnsqueezeOp, OpaqueOp)
_WEIGHTED = (Conv2dOp, ConvTranspose2dOp, LinearOp, BatchNormOp, LayerNormOp, GroupNormOp, PReluOp)
_MAKING_NEW = ("new_zeros", "new_ones", "new_full")
_MASKED = -1e4
"""What is added to scores that a mask leaves out: their share is exactly 0, and quantisation stays possible."""
_IN_PLACE = tuple(
    f"aten.{name}_"
    for name in (
        *("add", "sub", "mul", "div", "relu", "relu6", "silu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid"),
        *("tanh", "leaky_relu", "elu", "gelu", "clamp", "mish"),
    )
)  # fmt: skip
Arrays = dict[str, NDArray[Any]]


def read_exported(path: Path, max_bytes: int) -> ReadModel:
    """Read a program. Batch norms become those of evaluation and dropout disappears, whichever mode it was exported in.
    Operators without a translation become opaque.

    Raises InvalidModel, which names the module and operator that cannot be run.
    """
    archive = ExportArchive(path, max_bytes)
    program = parse_program(archive.program())
    _check_types(program)
    arrays, shared = archive.tensors()
    aliases = {name: shared.get(target, target) for name, target in program.parameters.items()}
    for name in aliases.values():
        if name not in arrays:
            raise InvalidModel(f"expected the values of {name!r} in the archive, got nothing")
    trained = {target for name, target in aliases.items() if name not in program.buffers}
    used = {name: arrays[name] for name in sorted(set(aliases.values()))}
    translation = _ProgramTranslator(program, aliases, used)
    for call in program.calls:
        translation.add(call)
    graph = ModelGraph(
        tuple(GraphValue(translation.source(name), translation.shape(name)) for name in program.inputs),
        tuple(
            GraphValue(name, array.shape, str(array.dtype), is_buffer=name not in trained)
            for name, array in translation.arrays.items()
        ),
        tuple(translation.nodes),
        tuple(translation.source(name) for name in program.outputs),
    )
    graph.check()
    graph = normalise(graph)
    check_shapes(graph)
    if any(isinstance(node.operator, OpaqueOp) for node in graph.nodes):
        from nas.models.opaque import check_opaque

        check_opaque(graph)
    weights = {value.name: translation.arrays[value.name] for value in graph.parameters}
    constants = frozenset(aliases[name] for name in program.constants) | (weights.keys() - used.keys())
    return ReadModel(graph, weights, constants & weights.keys())


def _check_types(program: Program) -> None:
    for role, names in (("inputs", program.inputs), ("outputs", program.outputs)):
        for name in names:
            if (kind := data_type(program.dtypes[name])) != "float32":
                raise InvalidModel(f"expected {role} of floating-point numbers, got {name!r} of {kind}")


class _ProgramTranslator:
    """Nodes for calls, one after the other. ``arrays``: the parameters and constants so far; ``_names``: the value that
    a name of the program stands for at present."""

    def __init__(self, program: Program, parameters: dict[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._program = program
        self._images = program.shapes[program.inputs[0]][0] if program.inputs else 0
        self._names = dict(parameters)
        self._folded = {parameters[name] for name in program.constants}
        self.arrays: Arrays = dict(arrays)
        self._widen_weights()
        self.nodes: list[GraphNode] = []
        for name in program.inputs:
            self._names[name] = self._unique(name)

    def source(self, name: str) -> str:
        """The value in the graph."""
        if name not in self._names:
            raise InvalidModel(f"expected a tensor that is computed before, got {name!r}")
        return self._names[name]

    def shape(self, name: str) -> TensorShape:
        """The shape of a tensor of the program."""
        return tuple(int(size) for size in self._program.shapes[name])

    def add(self, call: OperatorCall) -> None:
        """Translate one call, or take it as it is. Raises InvalidModel if it cannot be run either."""
        if not call.outputs:
            return  # sizes and assertions: nothing that tensors depend on
        is_constant = self._is_constant(call)
        if is_constant and call.operator not in ALIASES:
            self._fold(call)
            return
        try:
            self._translate(call)
        except UnknownOperator as error:
            if is_constant:
                self._fold(call)
            else:
                self._append_opaque(call, error)

    def _translate(self, call: OperatorCall) -> None:
        name = call.operator.removesuffix("_") if call.operator in _IN_PLACE else call.operator
        if name in ALIASES:
            self._alias(call)
        elif name in _SPLITS:
            self._split(call)
        elif name == _ATTENTION and self._is_masked(call):
            self._masked_attention(call)
        elif name == _EINSUM:
            self._einsum(call)
        elif name == _CONV1D:
            self._conv1d(call)
        elif name in TRANSLATIONS:
            arguments = Arguments(call, self._program.shapes)
            operators, operands = TRANSLATIONS[name](arguments)
            self._append(call, call.outputs[0], operators, [self.source(operand) for operand in operands])
            if name != call.operator:
                self._overwrite(call)
        else:
            raise UnknownOperator("the intake does not know it")

    def _append_opaque(self, call: OperatorCall, error: UnknownOperator) -> None:
        reason = str(error).removeprefix(f"{call.label}: ")
        if call.operator in _IN_PLACE:
            raise InvalidModel(str(error))
        try:
            operators, tensors = opaque_operators(
                call, self._program.shapes, self._program.dtypes, self._images, reason
            )
        except InvalidModel as impossible:
            raise InvalidModel(f"{impossible}; {call.operator} has no translation: {reason}") from None
        if not tensors:
            raise InvalidModel(f"{call.label}: expected an operator that reads tensors")
        operands = [self.source(name) for name in tensors]
        for output, operator in zip(call.outputs, operators, strict=True):
            self._append(call, output, [operator], operands)

    def _append(self, call: OperatorCall, output: str, operators: Sequence[GraphOperator], operands: list[str]) -> None:
        """A chain of operators whose last has the name of ``output``; shapes between them are inferred."""
        if isinstance(operators[0], _WEIGHTED) and not all(name in self.arrays for name in operands[1:]):
            raise UnknownOperator("its weights are computed")
        for i, operator in enumerate(operators):
            is_last = i == len(operators) - 1
            name = self._unique(output if is_last else f"{output}_step{i}")
            shape = self.shape(output) if is_last else self._between(call, operator, operands)
            self.nodes.append(GraphNode(name, operator, tuple(operands), shape, call.module))
            operands = [name]
        self._names[output] = operands[0]

    def _between(self, call: OperatorCall, operator: GraphOperator, operands: list[str]) -> TensorShape:
        shapes = {node.name: node.shape for node in self.nodes}
        shapes |= {name: array.shape for name, array in self.arrays.items()}
        shapes |= {self._names[name]: self.shape(name) for name in self._program.inputs}
        return infer_node(
            GraphNode("", operator, tuple(operands), (), call.module), [shapes[n] for n in operands], int(self._images)
        )

    def _alias(self, call: OperatorCall) -> None:
        operand = next(a for a in call.arguments.values() if isinstance(a, TensorName))
        kinds = [data_type(self._program.dtypes[name]) for name in (operand.name, call.outputs[0])]
        if kinds[0] != kinds[1]:
            raise UnknownOperator(f"expected the data type to remain, got {kinds[1]} from {kinds[0]}")
        self._names[call.outputs[0]] = self.source(operand.name)

    def _split(self, call: OperatorCall) -> None:
        operand = call.arguments["self"]
        assert isinstance(operand, TensorName)
        rank, dim = len(self.shape(operand.name)), call.arguments.get("dim", 0)
        assert isinstance(dim, int)
        dim, start = dim % rank, 0
        for output in call.outputs:
            if call.operator == "aten.unbind":
                operators: list[GraphOperator] = [SliceOp(dim, start, start + 1), SqueezeOp((dim,))]
                start += 1
            else:
                size = self.shape(output)[dim]
                operators = [SliceOp(dim, start, start + size)]
                start += size
            self._append(call, output, operators, [self.source(operand.name)])

    def _is_masked(self, call: OperatorCall) -> bool:
        return isinstance(call.arguments.get("attn_mask"), TensorName) or bool(call.arguments.get("is_causal"))

    def _masked_attention(self, call: OperatorCall) -> None:
        """Attention whose scores a tensor is added to: written out, since its operator in the graph has no mask."""
        arguments = Arguments(call, self._program.shapes)
        query, key, value = (self.source(arguments.tensor(name)) for name in ("query", "key", "value"))
        if arguments.flag("enable_gqa", False):
            raise arguments.refuse("expected as many keys as queries, got groups of queries")
        mask = self._added_mask(call, arguments)
        rank, scale = len(arguments.shape("key")), call.arguments.get("scale")
        factor = arguments.shape("query")[-1] ** -0.5 if scale is None else arguments.number("scale", 1.0)
        keys = self._step(call, "keys", PermuteOp((*range(rank - 2), rank - 1, rank - 2)), [key])
        scores = self._step(call, "scores", MatMulOp(), [query, keys])
        scaled = self._step(call, "scaled", BinaryOp("mul", factor), [scores])
        masked = self._step(call, "masked", BinaryOp("add"), [scaled, mask])
        shares = self._step(call, "shares", SoftmaxOp(rank - 1), [masked])
        self._append(call, call.outputs[0], [MatMulOp()], [shares, value])

    def _added_mask(self, call: OperatorCall, arguments: Arguments) -> str:
        """The value that is added to scores. A mask of truth values is one of numbers if it is constant."""
        if not isinstance(call.arguments.get("attn_mask"), TensorName):
            length, positions = int(arguments.shape("query")[-2]), int(arguments.shape("key")[-2])
            return self._constant(call, "mask", _as_added(np.tri(length, positions, dtype=bool)))
        mask = self.source(arguments.tensor("attn_mask"))
        kind = data_type(self._program.dtypes[arguments.tensor("attn_mask")])
        if arguments.flag("is_causal", False) or kind not in ("float32", "bool"):
            raise arguments.refuse(f"expected a mask of numbers or truth values, got one of {kind}")
        if kind == "float32":
            return mask
        if mask not in self.arrays:
            raise arguments.refuse("expected a constant mask of truth values, got one that is computed")
        return self._constant(call, "mask", _as_added(self.arrays[mask]))

    def _einsum(self, call: OperatorCall) -> None:
        arguments = Arguments(call, self._program.shapes)
        tensors, equation = call.arguments.get("tensors"), arguments.text("equation", "")
        names = [self.source(t.name) for t in tensors if isinstance(t, TensorName)] if isinstance(tensors, list) else []
        if len(names) == 1 and (dims := as_permutation(equation)) is not None:
            self._append(call, call.outputs[0], [PermuteOp(dims)], names)
            return
        product = as_matrix_product(equation)
        if len(names) != 2 or product is None:
            raise arguments.refuse(f"expected a product of matrices, got {equation!r}")
        operands = [
            name if dims == tuple(range(len(dims))) else self._step(call, "permuted", PermuteOp(dims), [name])
            for name, dims in zip(names, (product.first, product.second), strict=True)
        ]
        after = [] if product.result == tuple(range(len(product.result))) else [PermuteOp(product.result)]
        self._append(call, call.outputs[0], [MatMulOp(), *after], operands)

    def _conv1d(self, call: OperatorCall) -> None:
        """A convolution over one dimension as one over two, of which the first has one position."""
        arguments = Arguments(call, self._program.shapes)
        weight = self.source(arguments.tensor("weight"))
        if weight not in self.arrays or self.arrays[weight].ndim != 4:
            raise arguments.refuse("expected weights of its own, got others")
        stride, dilation = (arguments.pair(name, (1, 1))[0] for name in ("stride", "dilation"))
        before, after = self._padding_1d(arguments, dilation, self.arrays[weight].shape[3])
        operator = Conv2dOp((1, stride), (0, before, 0, after), (1, dilation), arguments.integer("groups", 1))
        operands = [weight, *(self.source(name) for name in arguments.tensors("bias"))]
        raised = self._step(call, "raised", UnsqueezeOp(2), [self.source(arguments.tensor("input"))])
        convolved = self._step(call, "convolved", operator, [raised, *operands])
        self._append(call, call.outputs[0], [SqueezeOp((2,))], [convolved])

    @staticmethod
    def _padding_1d(arguments: Arguments, dilation: int, kernel: int) -> tuple[int, int]:
        if isinstance(arguments.call.arguments.get("padding"), str):
            total = dilation * (kernel - 1) * (arguments.text("padding", "") == "same")
            return total // 2, total - total // 2
        padding = arguments.pair("padding", (0, 0))[0]
        return padding, padding

    def _widen_weights(self) -> None:
        """Give weights that convolutions over one dimension alone read the shape (O, C, 1, k)."""
        readers: dict[str, set[tuple[str, str]]] = {}
        for call in self._program.calls:
            for key, argument in call.arguments.items():
                for item in argument if isinstance(argument, list) else [argument]:
                    if isinstance(item, TensorName) and item.name in self._names:
                        readers.setdefault(self._names[item.name], set()).add((call.operator, key))
        for name, uses in readers.items():
            if uses == {(_CONV1D, "weight")} and self.arrays[name].ndim == 3:
                self.arrays[name] = self.arrays[name][:, :, None, :]

    def _is_constant(self, call: OperatorCall) -> bool:
        """Whether a call gives the same for all images, and reads nothing that is trained."""
        if call.operator.removeprefix("aten.") in (*FACTORIES, *_MAKING_NEW):
            return True
        items = [item for a in call.arguments.values() for item in (a if isinstance(a, list) else [a])]
        tensors = [item.name for item in items if isinstance(item, TensorName)]
        return bool(tensors) and all(self._names.get(name) in self._folded for name in tensors)

    def _fold(self, call: OperatorCall) -> None:
        """Compute a constant now; one that has as many rows as there are images is computed for one and repeated."""
        from nas.models.opaque import evaluate

        call, repeats = self._for_one_image(_as_factory(call, self._program))
        arguments, tensors = encode(call, self._images)
        arrays = [self.arrays[self.source(name)] for name in tensors]
        for output, array in zip(
            call.outputs, evaluate(f"{call.operator}.{call.overload}", arguments, arrays), strict=True
        ):
            self._names[output] = self._constant(call, output, array)
            if repeats:
                sizes = (0, *(-1 for _ in array.shape[1:]))
                self._append(call, output, [ExpandOp(sizes)], [self._names[output]])

    def _for_one_image(self, call: OperatorCall) -> tuple[OperatorCall, bool]:
        sizes = call.arguments.get("size")
        first = sizes[0] if isinstance(sizes, list) and sizes else None
        if not (isinstance(first, SymbolicSize) and isinstance(self._images, SymbolicSize)):
            return call, False
        if first.multiple_of(self._images) != 1 or not isinstance(sizes, list):
            return call, False
        arguments = {**call.arguments, "size": [1, *sizes[1:]]}
        return OperatorCall(call.operator, arguments, call.outputs, call.module, call.overload), True

    def _constant(self, call: OperatorCall, suffix: str, array: NDArray[Any]) -> str:
        """A new parameter that is not trained; its name."""
        name = self._unique(suffix if suffix in call.outputs else f"{call.outputs[0]}_{suffix}")
        self.arrays[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        self._folded.add(name)
        return name

    def _step(self, call: OperatorCall, suffix: str, operator: GraphOperator, operands: list[str]) -> str:
        """A node between those of the program; its name."""
        name = self._unique(f"{call.outputs[0]}_{suffix}")
        shape = self._between(call, operator, operands)
        self.nodes.append(GraphNode(name, operator, tuple(operands), shape, call.module))
        return name

    def _overwrite(self, call: OperatorCall) -> None:
        """What was changed in place is read as its result from here on."""
        operand = next(a for a in call.arguments.values() if isinstance(a, TensorName))
        source, result = self.source(operand.name), self._names[call.outputs[0]]
        views = [node for node in self.nodes if isinstance(node.operator, _VIEWS)]
        if any(view.name == source or source in view.operands for view in views):
            raise InvalidModel(f"{call.label}: expected values of its own, got a view that is changed in place")
        for name, value in self._names.items():
            if value == source and name not in self._program.parameters:
                self._names[name] = result

    def _unique(self, name: str) -> str:
        names = {*self.arrays, *(node.name for node in self.nodes)}
        while name in names:
            name += "_"
        return name


def _as_factory(call: OperatorCall, program: Program) -> OperatorCall:
    """``x.new_zeros(size)`` as ``zeros(size)``: of the tensor, only its data type matters."""
    name = call.operator.removeprefix("aten.")
    if name not in _MAKING_NEW:
        return call
    arguments = {key: value for key, value in call.arguments.items() if key != "self"}
    arguments["dtype"] = DataType(program.dtypes[call.outputs[0]])
    return OperatorCall(f"aten.{name.removeprefix('new_')}", arguments, call.outputs, call.module, "default")


def _as_added(mask: NDArray[Any]) -> NDArray[Any]:
    """0 where a mask is true, and what leaves out where it is not."""
    return np.where(mask, np.float32(0), np.float32(_MASKED))

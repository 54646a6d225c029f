"""A ``torch.export`` program (``.pt2``) as a graph."""

from __future__ import annotations

from pathlib import Path

from nas.models.graph import GraphNode, GraphValue, InvalidModel, ModelGraph, TensorShape
from nas.models.operators import (
    BinaryOp,
    GraphOperator,
    MatMulOp,
    PermuteOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnsqueezeOp,
)
from nas.models.reading.archive import ExportArchive
from nas.models.reading.aten import ALIASES, TRANSLATIONS, Arguments
from nas.models.reading.model import ReadModel
from nas.models.reading.normalising import normalise
from nas.models.reading.program import OperatorCall, Program, TensorName, parse_program
from nas.models.shapes import check_shapes, infer_node

_ATTENTION = "aten.scaled_dot_product_attention"
_SPLITS = ("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.unbind", "aten.tensor_split")
_VIEWS = (ReshapeOp, PermuteOp, SliceOp, SqueezeOp, UnsqueezeOp)
_IN_PLACE = tuple(
    f"aten.{name}_"
    for name in (
        *(
            "add",
            "sub",
            "mul",
            "div",
            "relu",
            "relu6",
            "silu",
            "hardtanh",
            "hardswish",
            "hardsigmoid",
            "sigmoid",
            "tanh",
        ),
        *("leaky_relu", "elu", "gelu", "clamp", "mish"),
    )
)


def read_exported(path: Path, max_bytes: int) -> ReadModel:
    """Read a program. Batch norms become those of evaluation and dropout disappears, whichever mode it was exported in.

    Raises InvalidModel, which names the module and operator that have no translation.
    """
    archive = ExportArchive(path, max_bytes)
    program = parse_program(archive.program())
    arrays, shared = archive.tensors()
    aliases = {name: shared.get(target, target) for name, target in program.parameters.items()}
    for name in aliases.values():
        if name not in arrays:
            raise InvalidModel(f"expected the values of {name!r} in the archive, got nothing")
    used = sorted(set(aliases.values()))
    translation = _ProgramTranslator(program, aliases, {name: arrays[name].shape for name in used})
    for call in program.calls:
        translation.add(call)
    graph = ModelGraph(
        tuple(GraphValue(translation.source(name), translation.shape(name)) for name in program.inputs),
        tuple(GraphValue(name, arrays[name].shape, str(arrays[name].dtype)) for name in used),
        tuple(translation.nodes),
        tuple(translation.source(name) for name in program.outputs),
    )
    graph.check()
    graph = normalise(graph)
    check_shapes(graph)
    weights = {value.name: arrays[value.name] for value in graph.parameters}
    return ReadModel(graph, weights, frozenset(aliases[name] for name in program.constants) & weights.keys())


class _ProgramTranslator:
    """Nodes for calls, one after the other. ``_names``: the value that a name of the program stands for at present."""

    def __init__(self, program: Program, parameters: dict[str, str], shapes: dict[str, TensorShape]) -> None:
        self._program = program
        self._parameters = shapes
        self._names = dict(parameters)
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
        """Translate one call. Raises InvalidModel if its operator is not supported."""
        if not call.outputs:
            return  # sizes and assertions: nothing that tensors depend on
        name = call.operator.removesuffix("_") if call.operator in _IN_PLACE else call.operator
        if name in ALIASES:
            self._alias(call)
        elif name in _SPLITS:
            self._split(call)
        elif name == _ATTENTION and isinstance(call.arguments.get("attn_mask"), TensorName):
            self._masked_attention(call)
        elif name in TRANSLATIONS:
            arguments = Arguments(call, self._program.shapes)
            operators, operands = TRANSLATIONS[name](arguments)
            self._append(call, call.outputs[0], operators, [self.source(operand) for operand in operands])
            if name != call.operator:
                self._overwrite(call)
        else:
            raise InvalidModel(f"{call.module or 'the model'}: expected a known operator, got {call.operator}")

    def _append(self, call: OperatorCall, output: str, operators: list[GraphOperator], operands: list[str]) -> None:
        """A chain of operators whose last has the name of ``output``; shapes between them are inferred."""
        for i, operator in enumerate(operators):
            is_last = i == len(operators) - 1
            name = self._unique(output if is_last else f"{output}_step{i}")
            shape = self.shape(output) if is_last else self._between(call, operator, operands)
            self.nodes.append(GraphNode(name, operator, tuple(operands), shape, call.module))
            operands = [name]
        self._names[output] = operands[0]

    def _between(self, call: OperatorCall, operator: GraphOperator, operands: list[str]) -> TensorShape:
        shapes = {node.name: node.shape for node in self.nodes} | self._parameters
        shapes |= {self._names[name]: self.shape(name) for name in self._program.inputs}
        batch = self._program.shapes[self._program.inputs[0]][0]
        return infer_node(
            GraphNode("", operator, tuple(operands), (), call.module), [shapes[n] for n in operands], batch
        )

    def _alias(self, call: OperatorCall) -> None:
        operand = next(a for a in call.arguments.values() if isinstance(a, TensorName))
        kinds = [self._program.dtypes[name] for name in (operand.name, call.outputs[0])]
        if kinds[0] != kinds[1]:
            raise InvalidModel(f"{call.label}: expected the data type to remain, got {kinds[1]} from {kinds[0]}")
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

    def _masked_attention(self, call: OperatorCall) -> None:
        """Attention whose scores a tensor is added to: written out, since its operator in the graph has no mask."""
        arguments = Arguments(call, self._program.shapes)
        query, key, value, mask = (self.source(arguments.tensor(n)) for n in ("query", "key", "value", "attn_mask"))
        kinds = [self._program.dtypes[arguments.tensor(n)] for n in ("query", "attn_mask")]
        if kinds[0] != kinds[1] or arguments.flag("is_causal", False) or arguments.flag("enable_gqa", False):
            raise arguments.refuse("expected a mask of numbers that are added to the scores, got another one")
        rank, scale = len(arguments.shape("key")), call.arguments.get("scale")
        factor = arguments.shape("query")[-1] ** -0.5 if scale is None else arguments.number("scale", 1.0)
        keys = self._step(call, "keys", PermuteOp((*range(rank - 2), rank - 1, rank - 2)), [key])
        scores = self._step(call, "scores", MatMulOp(), [query, keys])
        scaled = self._step(call, "scaled", BinaryOp("mul", factor), [scores])
        masked = self._step(call, "masked", BinaryOp("add"), [scaled, mask])
        shares = self._step(call, "shares", SoftmaxOp(rank - 1), [masked])
        self._append(call, call.outputs[0], [MatMulOp()], [shares, value])

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
        names = {*self._parameters, *(node.name for node in self.nodes)}
        while name in names:
            name += "_"
        return name

"""The nodes of a ``torch.export`` program as JSON, with their arguments decoded. No symbolic expression is evaluated:
sizes are those of the example with which the program was exported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from nas.core.json_types import JsonObject
from nas.models.graph import InvalidModel, TensorShape


class UnknownOperator(InvalidModel):
    """What of a call is not known. It may be run all the same."""


@dataclass(frozen=True)
class TensorName:
    """An argument that is a tensor."""

    name: str


class SymbolicSize(int):
    """A size that the program computes, such as the number of images, with its value in the example. ``expression``:
    how it is computed, as the program writes it."""

    expression: str

    def __new__(cls, value: int, expression: str) -> SymbolicSize:
        """A size of an expression."""
        size = super().__new__(cls, value)
        size.expression = expression
        return size

    def multiple_of(self, images: SymbolicSize) -> int | None:
        """How many times the number of images it is; 0 if it does not depend on it, None if it does otherwise."""
        if self.expression == images.expression:
            return 1
        product = re.fullmatch(r"Mul\(Integer\((\d+)\), (.+)\)", self.expression)
        if product is not None and product.group(2) == images.expression:
            return int(product.group(1))
        return None if set(_SYMBOL.findall(images.expression)) & set(_SYMBOL.findall(self.expression)) else 0


@dataclass(frozen=True)
class DataType:
    """An argument that is a data type, by its number in the format (``archive.TORCH_TYPES``)."""

    number: int


@dataclass(frozen=True)
class Undecoded:
    """An argument of a kind that no supported operator has."""

    kind: str


Argument: TypeAlias = "TensorName | DataType | Undecoded | int | float | bool | str | list[Argument] | None"
_SYMBOL = re.compile(r"Symbol\('(\w+)'")
_PLACES = ("as_none", "as_device", "as_layout", "as_memory_format")  # None, and where and how tensors are stored


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator. ``operator``: as in ``aten.conv2d``; ``overload``: as in ``default``; ``outputs``: names
    of its tensors."""

    operator: str
    arguments: dict[str, Argument]
    outputs: tuple[str, ...]
    module: str
    overload: str = "default"

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{self.module} ({self.operator})" if self.module else self.operator


@dataclass(frozen=True)
class Program:
    """A program. ``parameters``: names of parameters, buffers and constants in the model, by those in ``calls``;
    ``buffers``: those in ``calls`` that are not trained; ``constants``: those that a state dict of the model lacks."""

    calls: tuple[OperatorCall, ...]
    parameters: dict[str, str]
    buffers: tuple[str, ...]
    constants: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, TensorShape]
    dtypes: dict[str, int]


def parse_program(content: JsonObject) -> Program:
    """Decode the JSON of a program. Raises InvalidModel if it is none, or has inputs or outputs that are no tensors."""
    try:
        graph, signature = content["graph_module"]["graph"], content["graph_module"]["signature"]
        symbols = {name: _hint(value) for name, value in graph["sym_int_values"].items()}
        tensors = graph["tensor_values"]
        parameters, inputs = _parse_inputs(signature["input_specs"])
        return Program(
            tuple(_parse_call(node, symbols) for node in graph["nodes"]),
            parameters,
            _parse_buffers(signature["input_specs"]),
            _parse_constants(signature["input_specs"]),
            inputs,
            _parse_outputs(signature["output_specs"]),
            {name: tuple(_hint(size) for size in meta["sizes"]) for name, meta in tensors.items()},
            {name: meta["dtype"] for name, meta in tensors.items()},
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidModel(f"expected the JSON of a program of torch.export, got one without {error}") from None


def _hint(size: JsonObject) -> int:
    if "as_int" in size:
        return int(size["as_int"])
    hint = size["as_expr"]["hint"]
    if hint is None:
        raise InvalidModel("expected sizes that are known from the example, got one that depends on values of tensors")
    return SymbolicSize(hint["as_int"], size["as_expr"]["expr_str"])


def _parse_inputs(specs: list[JsonObject]) -> tuple[dict[str, str], tuple[str, ...]]:
    parameters: dict[str, str] = {}
    inputs: list[str] = []
    for spec in specs:
        [(kind, content)] = spec.items()
        if kind == "user_input":
            if "as_tensor" not in content["arg"]:
                raise InvalidModel(f"expected inputs that are tensors, got {', '.join(content['arg'])}")
            inputs.append(content["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            parameters[content["arg"]["name"]] = content[f"{kind}_name"]
        else:
            raise InvalidModel(f"expected tensors as inputs, got {kind}: custom objects are not opened")
    return parameters, tuple(inputs)


def _parse_buffers(specs: list[JsonObject]) -> tuple[str, ...]:
    kinds = ("buffer", "tensor_constant")
    return tuple(spec[kind]["arg"]["name"] for spec in specs for kind in kinds if kind in spec)


def _parse_constants(specs: list[JsonObject]) -> tuple[str, ...]:
    constants = [spec["tensor_constant"]["arg"]["name"] for spec in specs if "tensor_constant" in spec]
    buffers = [spec["buffer"] for spec in specs if "buffer" in spec]
    return (*constants, *(buffer["arg"]["name"] for buffer in buffers if not buffer["persistent"]))


def _parse_outputs(specs: list[JsonObject]) -> tuple[str, ...]:
    outputs = [spec["user_output"]["arg"] for spec in specs if "user_output" in spec]
    for output in outputs:
        if "as_tensor" not in output:
            raise InvalidModel(f"expected outputs that are tensors, got {', '.join(output)}")
    return tuple(output["as_tensor"]["name"] for output in outputs)


def _parse_call(node: JsonObject, symbols: dict[str, int]) -> OperatorCall:
    target = node["target"].removeprefix("torch.ops.").split(".")
    arguments = {entry["name"]: _decode(entry["arg"], symbols) for entry in node["inputs"]}
    outputs: list[str] = []
    for output in node["outputs"]:
        if "as_tensor" in output:
            outputs.append(output["as_tensor"]["name"])
        elif "as_tensors" in output:
            outputs.extend(tensor["name"] for tensor in output["as_tensors"])
    stack = node["metadata"].get("nn_module_stack", "")
    module = stack.split(";")[-1].split(",")[1] if stack else ""
    return OperatorCall(".".join(target[:2]), arguments, tuple(outputs), module, ".".join(target[2:]) or "default")


def _decode(argument: JsonObject, symbols: dict[str, int]) -> Argument:
    [(kind, value)] = argument.items()
    match kind:
        case "as_tensor":
            return TensorName(value["name"])
        case "as_tensors":
            return [TensorName(tensor["name"]) for tensor in value]
        case "as_optional_tensors":
            return [TensorName(t["as_tensor"]["name"]) if "as_tensor" in t else None for t in value]
        case "as_sym_int":
            return symbols[value["as_name"]] if "as_name" in value else int(value["as_int"])
        case "as_sym_ints":
            return [symbols[v["as_name"]] if "as_name" in v else int(v["as_int"]) for v in value]
        case "as_ints" | "as_bools":
            return list(value)
        case "as_float":
            return float(value)  # a text if it is infinite
        case "as_floats":
            return [float(item) for item in value]
        case "as_int" | "as_bool" | "as_string":
            assert isinstance(value, int | float | bool | str)
            return value
        case "as_scalar_type":
            return DataType(int(value))
        case _:
            return None if kind in _PLACES else Undecoded(kind)

"""Running operators of torch by name, of which nothing else is known.

A name comes from a file, so not every operator is run: only those of torch's own ``aten`` that take and give tensors,
change none of them, and give the same for the same. None of these reads or writes files.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nas.core.operators import (
    FACTORIES,
    DataTypeArgument,
    ExampleShape,
    OpaqueArgument,
    OpaqueOp,
    OperandArgument,
    Scalar,
)
from nas.models.graph import InvalidModel, ModelGraph

ONNX_OPSET = 17  # that of exported models
_INTERNAL = ("_to_copy", "_unsafe_index", "_unsafe_view")
"""Operators whose names begin with an underscore are checked by those that call them; these check themselves."""
_IMAGES = (2, 3)  # numbers of images with which shapes are checked
RunValue: TypeAlias = "Tensor | torch.dtype | Scalar | list[Tensor | None] | list[Scalar] | None"
AtenOperator: TypeAlias = Callable[..., object]


@lru_cache(maxsize=512)
def operator_of(name: str) -> AtenOperator:
    """The operator of a name such as ``aten.sort.default``. Raises InvalidModel for one that must not be run."""
    parts = name.split(".")
    packet = getattr(torch.ops.aten, parts[1], None) if len(parts) == 3 and parts[0] == "aten" else None
    operator = getattr(packet, parts[2], None)
    if not isinstance(operator, torch._ops.OpOverload):
        raise InvalidModel(f"expected an operator of torch {torch.__version__}, got {name}")
    if parts[1].startswith("_") and parts[1] not in _INTERNAL:
        raise InvalidModel(f"expected an operator for users of torch, got {name}, which is internal")
    schema = operator._schema
    if schema.is_mutable or any(str(value.type) not in ("Tensor", "List[Tensor]") for value in schema.returns):
        raise InvalidModel(f"expected an operator that gives new tensors and nothing else, got {name}")
    if torch.Tag.nondeterministic_seeded in operator.tags:
        raise InvalidModel(f"expected an operator that gives the same for the same, got {name}, which draws numbers")
    if not any("Tensor" in str(argument.type) for argument in schema.arguments):
        raise InvalidModel(f"expected an operator that reads tensors, got {name}")
    run: AtenOperator = operator
    return run


def run_opaque(operator: OpaqueOp, operands: Sequence[Tensor]) -> Tensor:
    """The output of an operator. Raises InvalidModel as ``operator_of``."""
    values = {name: _value(argument, operands) for name, argument in operator.arguments}
    return _outputs(operator_of(operator.operator)(**values))[operator.output]


def evaluate(
    name: str, arguments: Sequence[tuple[str, OpaqueArgument]], operands: Sequence[NDArray[Any]]
) -> list[NDArray[Any]]:
    """All outputs of an operator on constants, such as ``aten.arange.default``; it need not read tensors.

    Raises InvalidModel as ``operator_of``, and if the operator refuses its arguments.
    """
    parts = name.split(".")
    factory = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None) if parts[1] in FACTORIES else None
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in operands]
    values = {key: _value(argument, tensors) for key, argument in arguments}
    try:
        return [output.numpy() for output in _outputs((factory or operator_of(name))(**values))]
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidModel(f"{name}: {_first_line(error)}") from None


def check_opaque(graph: ModelGraph) -> None:
    """Raises InvalidModel, which names the module and operator, for an opaque node that torch does not run, whose
    output has another shape, in which images depend on each other, or that has no ONNX form, without which the model
    runs on no device."""
    for node in graph.nodes:
        if isinstance(node.operator, OpaqueOp):
            try:
                _check_shape(node.operator)
                _check_independence(node.operator)
                _check_exportable(node.operator)
            except InvalidModel as error:
                module = node.module or "the model"
                raise InvalidModel(f"{module}: {node.operator.operator} cannot be run: {error}") from None


def _check_shape(operator: OpaqueOp) -> None:
    for images in _IMAGES if operator.shape.image_dims else (1,):
        output = _run(operator, _example_operands(operator, images))
        if tuple(output.shape) != operator.shape.of(images):
            raise InvalidModel(f"expected shape {list(operator.shape.of(images))}, got {list(output.shape)}")


def _check_independence(operator: OpaqueOp) -> None:
    """Whether each image gives alone what it gives among others, on random numbers."""
    if not operator.shape.image_dims:
        return
    together = _example_operands(operator, _IMAGES[0])
    output = _run(operator, together)
    for image in range(_IMAGES[0]):
        one_by_one = _run(
            operator, [_image_of(x, shape, image) for x, shape in zip(together, operator.operand_shapes, strict=True)]
        )
        if not torch.allclose(
            one_by_one.float(), _image_of(output, operator.shape, image).float(), atol=1e-5, equal_nan=True
        ):
            raise InvalidModel("expected each image to be independent of others, got one that is not")


def _image_of(x: Tensor, shape: ExampleShape, image: int) -> Tensor:
    for dim in shape.image_dims:
        x = x.narrow(dim, image * shape.sizes[dim], shape.sizes[dim])
    return x


def _run(operator: OpaqueOp, operands: Sequence[Tensor]) -> Tensor:
    try:
        return run_opaque(operator, operands)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise InvalidModel(_first_line(error)) from None


def _check_exportable(operator: OpaqueOp) -> None:
    operands = _example_operands(operator, _IMAGES[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Single(operator),
                operands,
                io.BytesIO(),  # type: ignore[arg-type]  # files in memory are taken, but not declared
                opset_version=ONNX_OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError) as error:  # what torch's exporter raises
        raise InvalidModel(f"it has no form in ONNX: {_first_line(error)}") from None


class _Single(nn.Module):
    def __init__(self, operator: OpaqueOp) -> None:
        super().__init__()
        self._operator = operator

    def forward(self, *operands: Tensor) -> Tensor:
        return run_opaque(self._operator, operands)


def _example_operands(operator: OpaqueOp, images: int) -> tuple[Tensor, ...]:
    """Random numbers in the shapes and data types of its operands; whole ones are 0, as they may be positions."""
    generator = torch.Generator().manual_seed(0)
    operands = []
    for shape, name in zip(operator.operand_shapes, operator.operand_types, strict=True):
        kind, numbers = _data_type(name), torch.rand(shape.of(images), generator=generator)
        if kind.is_floating_point:
            operands.append(numbers)
        else:
            operands.append(
                (numbers > 0.5).to(kind) if kind == torch.bool else torch.zeros(shape.of(images), dtype=kind)
            )
    return tuple(operands)


def _value(argument: OpaqueArgument, operands: Sequence[Tensor]) -> RunValue:
    if isinstance(argument, OperandArgument):
        tensors = [operands[i] if i >= 0 else None for i in argument.positions]
        return tensors if argument.is_list else tensors[0]
    if isinstance(argument, DataTypeArgument):
        return _data_type(argument.name)
    items = [float(str(item)) if i in argument.infinite else item for i, item in enumerate(argument.items)]
    return items if argument.is_list else items[0]


def _data_type(name: str) -> torch.dtype:
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise InvalidModel(f"expected a data type of torch, got {name}")
    return kind


def _outputs(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

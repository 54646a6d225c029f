"""Calls of operators that have no translation, as opaque operators and as constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from nas.core.operators import (
    DataTypeArgument,
    ExampleShape,
    OpaqueArgument,
    OpaqueOp,
    OperandArgument,
    Scalar,
    ValueArgument,
)
from nas.models.graph import InvalidModel, TensorShape
from nas.models.reading.archive import TORCH_TYPES
from nas.models.reading.program import Argument, DataType, OperatorCall, SymbolicSize, TensorName, Undecoded

_FLOATS = ("float16", "bfloat16", "float64")  # kept as float32, as weights are


def data_type(number: int) -> str:
    """The name of a data type of the format; all floating-point numbers are float32. Raises InvalidModel for others."""
    name = TORCH_TYPES.get(number)
    if name is None:
        raise InvalidModel(f"expected real numbers, got the data type {number} of torch.export")
    return "float32" if name in _FLOATS else name


def encode(call: OperatorCall, images: int) -> tuple[tuple[tuple[str, OpaqueArgument], ...], list[str]]:
    """The arguments of a call, without those that are None, and the tensors that they name, in order. ``images``: the
    number of images, a ``SymbolicSize`` where it may change.

    Raises InvalidModel for arguments of an unknown kind, and for those that depend on the number of images.
    """
    tensors: list[str] = []

    def place(item: Argument) -> int:
        if item is None:
            return -1
        assert isinstance(item, TensorName)
        if item.name not in tensors:
            tensors.append(item.name)
        return tensors.index(item.name)

    encoded = [
        (name, _encode(call, argument, images, place))
        for name, argument in call.arguments.items()
        if argument is not None
    ]
    return tuple(encoded), tensors


def _encode(call: OperatorCall, argument: Argument, images: int, place: Callable[[Argument], int]) -> OpaqueArgument:
    if isinstance(argument, TensorName):
        return OperandArgument((place(argument),))
    if isinstance(argument, DataType):
        return DataTypeArgument(data_type(argument.number))
    if isinstance(argument, list) and any(isinstance(item, TensorName) for item in argument):
        return OperandArgument(tuple(place(item) for item in argument), is_list=True)
    items = [_scalar(call, item, images) for item in (argument if isinstance(argument, list) else [argument])]
    infinite = tuple(i for i, item in enumerate(items) if isinstance(item, float) and math.isinf(item))
    texts = tuple(str(item) if i in infinite else item for i, item in enumerate(items))
    return ValueArgument(texts, isinstance(argument, list), infinite)


def _scalar(call: OperatorCall, item: Argument, images: int) -> Scalar:
    if isinstance(item, SymbolicSize) and isinstance(images, SymbolicSize) and item.multiple_of(images) != 0:
        raise InvalidModel(
            f"{call.label}: expected arguments that are fixed, got one that depends on the images' number"
        )
    if isinstance(item, int) and not isinstance(item, bool):
        return int(item)
    if item is None or isinstance(item, bool | float | str):
        return item
    kind = item.kind if isinstance(item, Undecoded) else type(item).__name__
    raise InvalidModel(f"{call.label}: expected tensors, numbers and texts as arguments, got {kind}")


def example_shape(call: OperatorCall, shape: TensorShape, images: int) -> ExampleShape:
    """A shape of the program. Raises InvalidModel for sizes that are no multiple of the number of images."""
    sizes, image_dims = [], []
    for dim, size in enumerate(shape):
        multiple = 0
        if isinstance(size, SymbolicSize) and isinstance(images, SymbolicSize):
            multiple_or_none = size.multiple_of(images)
            if multiple_or_none is None:
                raise InvalidModel(
                    f"{call.label}: expected sizes that are multiples of the number of images, got another"
                )
            multiple = multiple_or_none
        sizes.append(multiple or int(size))
        if multiple:
            image_dims.append(dim)
    return ExampleShape(tuple(sizes), tuple(image_dims))


def opaque_operators(
    call: OperatorCall, shapes: Mapping[str, TensorShape], dtypes: Mapping[str, int], images: int, reason: str
) -> tuple[list[OpaqueOp], list[str]]:
    """An operator for each output of a call, and the tensors that they read. Raises InvalidModel as ``encode``."""
    arguments, tensors = encode(call, images)
    operands = tuple(example_shape(call, shapes[name], images) for name in tensors)
    types = tuple(data_type(dtypes[name]) for name in tensors)
    for output in call.outputs:
        data_type(dtypes[output])  # a runtime has no others
    name = f"{call.operator}.{call.overload}"
    operators = [
        OpaqueOp(name, arguments, i, operands, types, example_shape(call, shapes[output], images), reason)
        for i, output in enumerate(call.outputs)
    ]
    return operators, tensors

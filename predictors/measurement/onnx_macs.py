"""Multiplications of an ONNX model, for bounds on what a time can be. Needs onnx."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nas.core.errors import MeasurementRefused


def count_macs(model: bytes) -> int:
    """Multiplications of the convolutions and dense layers for one image, those in quantised models included.

    Raises MeasurementRefused where onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MeasurementRefused("expected the package onnx, which counts multiplications: pip install onnx") from error
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    sizes = {w.name: tuple(w.dims) for w in graph.initializer}
    for value in (*graph.value_info, *graph.output):
        sizes[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)  # one image
    weights = {w.name: tuple(w.dims) for w in graph.initializer}
    for node in graph.node:  # weights of quantised models are read through these
        if node.op_type in ("DequantizeLinear", "Identity", "Cast") and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return sum(_macs(node.op_type, node.input, node.output, weights, sizes) for node in graph.node)


def _macs(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, tuple[int, ...]],
) -> int:
    place = 3 if operator == "QLinearConv" else 1
    if operator not in ("Conv", "QLinearConv", "Gemm", "MatMul") or len(inputs) <= place:
        return 0
    shape = weights.get(inputs[place])
    if shape is None:
        return 0
    positions = math.prod(sizes.get(outputs[0], ())[2:]) if "Conv" in operator else 1
    return math.prod(shape) * positions

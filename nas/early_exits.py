"""An exit in the middle of an exported model: where it is sure there, the rest is not computed.

The idea is that of early-exit networks such as Dynamic Perceiver (Han et al., ICCV 2023): easy images leave before the
last layer, thresholds are fitted to validation images. Here nothing but the exit's classifier learns, on what the model
gives at that place for training images, so that any exported model gets an exit without being trained again. The two
halves are a cascade of two members, the second of which reads the features of the first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from nas.cascade_package import (
    Clock,
    MemberModel,
    cascade_zip,
    gate_member,
    logits_of,
    measured_report,
    output_of,
    typical_ms,
)
from nas.cascade_run import FEATURES
from nas.core.cascades import CascadeReport, FittedCascade, MemberOutputs, fastest, fit_pair
from nas.core.errors import InvalidInput
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset

POOLED = "pooled"
_PLACES = 5  # at which an exit is tried
_MOST_IMAGES = 10_000  # of training, on which an exit's classifier learns
_ABSENT = -30.0  # logit of a class that no training image has
_GIVE_TOKENS = ("Add", "LayerNormalization")  # (batch, tokens, channels), where others may have channels before
_NEVER = 2.0  # a threshold that no confidence reaches
Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class ExitPlace:
    """A value that all of a model's later operators depend on alone: a map (``rank`` 4) or tokens (3)."""

    name: str
    rank: int


def exit_places(model: ModelProto, most: int = _PLACES) -> list[ExitPlace]:
    """At most so many places for an exit, evenly over the operators of a model, in their order. The first convolution
    and what is before it are left out."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    places: list[tuple[int, ExitPlace]] = []
    for i, name in _bottlenecks(model.graph):
        is_behind_convolution = any(node.op_type == "Conv" for node in model.graph.node[:i])
        are_tokens = ranks.get(name) == 3 and model.graph.node[i].op_type in _GIVE_TOKENS
        if is_behind_convolution and (are_tokens or ranks.get(name) == 4):
            places.append((i, ExitPlace(name, ranks[name])))
    targets = np.linspace(0, len(model.graph.node), most + 2)[1:-1]
    nearest = {min(range(len(places)), key=lambda p: abs(places[p][0] - t)) for t in targets if places}
    return [places[p][1] for p in sorted(nearest)]


def _bottlenecks(graph: onnx.GraphProto) -> list[tuple[int, str]]:
    """The operators, by their positions, whose output is the only value that later ones read, but for constants."""
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    live, found = {graph.input[0].name}, list[tuple[int, str]]()
    for i, node in enumerate(graph.node):
        if not live & set(node.input):
            continue  # made of constants
        for name in node.input:
            readers[name] -= 1
        live = {name for name in (*live, *node.output) if readers.get(name, 0) > 0}
        if live == set(node.output):
            found.append((i, node.output[0]))
    return found


def split_at(model: ModelProto, place: ExitPlace) -> tuple[ModelProto, ModelProto]:
    """The model up to a place, which also gives the means of its channels as ``pooled``, and the model behind it, which
    reads ``features``."""
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    front = extractor.extract_model([model.graph.input[0].name], [place.name])
    back = extractor.extract_model([place.name], [output.name for output in model.graph.output])
    _rename(front.graph, place.name, FEATURES)
    _rename(back.graph, place.name, FEATURES)
    if place.rank == 4:
        front.graph.node.append(helper.make_node("GlobalAveragePool", [FEATURES], ["exit_pool"]))
        front.graph.node.append(helper.make_node("Flatten", ["exit_pool"], [POOLED]))
    else:
        front.graph.node.append(helper.make_node("ReduceMean", [FEATURES], [POOLED], axes=[1], keepdims=0))
    front.graph.output.append(helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, None))
    return front, back


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a value another name."""
    for node in graph.node:
        for names in (node.input, node.output):
            renamed = [new if name == old else name for name in names]
            del names[:]
            names.extend(renamed)
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def with_exit(front: ModelProto, pooled_NC: Array32, label_N: NDArray[np.int64], classes: int) -> ModelProto:
    """The front with a linear classifier of ``pooled``, learned by logistic regression; it gives ``logits``, then
    ``features``."""
    weight_CK, bias_K = exit_classifier(pooled_NC, label_N, classes)
    model = ModelProto()
    model.CopyFrom(front)
    model.graph.initializer.append(numpy_helper.from_array(weight_CK, "exit_weight"))
    model.graph.initializer.append(numpy_helper.from_array(bias_K, "exit_bias"))
    model.graph.node.append(helper.make_node("Gemm", [POOLED, "exit_weight", "exit_bias"], ["logits"]))
    features = next(value for value in model.graph.output if value.name == FEATURES)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(features)
    del model.graph.output[:]
    model.graph.output.extend([logits, kept])
    return model


def exit_classifier(pooled_NC: Array32, label_N: NDArray[np.int64], classes: int) -> tuple[Array32, Array32]:
    """Weights (C, K) and bias (K,) of multinomial logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression

    mean_C, scale_C = pooled_NC.mean(0), pooled_NC.std(0) + 1e-6
    learned = LogisticRegression(max_iter=500).fit((pooled_NC - mean_C) / scale_C, label_N)
    coefficients, intercepts = learned.coef_, learned.intercept_
    if len(learned.classes_) == 2:  # one row for both
        coefficients, intercepts = (np.concatenate([-part, part]) / 2 for part in (coefficients, intercepts))
    weight_KC, bias_K = np.zeros((classes, len(mean_C))), np.full(classes, _ABSENT)
    weight_KC[learned.classes_] = coefficients / scale_C
    bias_K[learned.classes_] = intercepts - (coefficients / scale_C) @ mean_C
    return weight_KC.T.astype(np.float32), bias_K.astype(np.float32)


@dataclass(frozen=True)
class _Halves:
    """A model with an exit, and what both halves do on validation images."""

    models: tuple[MemberModel, MemberModel]
    outputs: tuple[MemberOutputs, MemberOutputs]


def make_early_exit(
    package: ModelPackage,
    data: Dataset,
    *,
    within: float = 0.0,
    expected_ms: float | None = None,
    p95_ms: float | None = None,
    clock: Clock = time.perf_counter,
) -> tuple[bytes, CascadeReport]:
    """The zip file of the model with the exit, of some places that are tried, which takes least on average and costs at
    most ``within`` points of accuracy on validation images, and what it does on test images. Raises InvalidInput for a
    model without a place for an exit, and InfeasibleBound where bounds leave none or no exit saves time."""
    whole = MemberModel.of(package)
    model, name = onnx.load_model_from_string(whole.onnx_bytes), package.manifest["architecture"]
    places = exit_places(model)
    if not places:
        raise InvalidInput(f"early exit: expected a model with maps that all later layers depend on, got {name}")
    logits_NK = logits_of(whole, data.val.images_NCHW[: len(data.val)])
    whole_ms = typical_ms([gate_member(whole, 1.0, 0.0)], data.val, clock)
    halves = [_halved(model, place, whole, logits_NK, data, str(name), clock) for place in places]
    fitted = [(fit, half) for half in halves for fit in fit_pair(half.outputs, data.val.labels)]
    fitted.sort(key=lambda pair: pair[0].outcome.expected_ms)
    accuracy = 100.0 * float((logits_NK.argmax(1) == data.val.labels).mean())
    most_ms = min(whole_ms, expected_ms or np.inf)
    chosen = fastest([fit for fit, _ in fitted], accuracy - within, most_ms, p95_ms)
    half = next(half for fit, half in fitted if fit is chosen)
    return _written(package, whole, chosen, half, data, clock)


def _halved(
    model: ModelProto,
    place: ExitPlace,
    whole: MemberModel,
    logits_NK: NDArray[np.float64],
    data: Dataset,
    name: str,
    clock: Clock,
) -> _Halves:
    """The halves of a model with an exit at a place, which learns from training images."""
    front, back = split_at(model, place)
    images_NCHW = data.train.images_NCHW[: min(len(data.train), _MOST_IMAGES)]
    pooled_NC = output_of(MemberModel(front.SerializeToString(), *whole.size), images_NCHW, POOLED)
    exit_model = with_exit(front, pooled_NC, data.train.labels[: len(pooled_NC)], data.shape.classes)
    models = (
        MemberModel(exit_model.SerializeToString(), *whole.size),
        MemberModel(back.SerializeToString(), *whole.size),
    )
    gate = [gate_member(half, 1.0, _NEVER) for half in models]
    exit_ms = typical_ms(gate[:1], data.val, clock)
    rest_ms = max(0.0, typical_ms(gate, data.val, clock) - exit_ms)
    exit_NK = logits_of(models[0], data.val.images_NCHW[: len(data.val)])
    outputs = MemberOutputs(f"{name}, early exit", exit_NK, exit_ms), MemberOutputs(name, logits_NK, rest_ms)
    return _Halves(models, outputs)


def _written(
    package: ModelPackage, whole: MemberModel, fitted: FittedCascade, half: _Halves, data: Dataset, clock: Clock
) -> tuple[bytes, CascadeReport]:
    names = [outputs.name for outputs in half.outputs]
    single = gate_member(whole, 1.0, 0.0)
    report = measured_report(half.models, fitted, single, names, names[-1], data, clock)
    return cascade_zip(half.models, fitted, report, package), report

"""Networks in the precision of a search: simulated to score candidates, and as the models that are verified."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from nas import exported_run
from nas.core.arch import Arch
from nas.core.ports import Problem, Split
from nas.core.references import space_of
from nas.core.tasks import TaskScores
from nas.export import converted, open_session, run_session, to_onnx
from nas.mixed_precision import int8_mask
from nas.packaging import calibration_sample
from nas.quantisation import in_float16, quantised
from nas.stages.subnets import Subnets

SIMULATED_IMAGES = 128  # as many as the exported model is calibrated on
_BATCH = 256


def in_precision(subnets: Subnets, module: nn.Module, arch: Arch) -> nn.Module:
    """A cut subnet as it answers in the precision of its search: itself in float32, else with simulated rounding."""
    precision = subnets.problem.spec.precision
    if precision == "float32":
        return module
    if precision == "float16":
        return in_float16(module)
    return quantised(module, calibration_batches(subnets, arch), int8_mask(subnets.problem.space, arch, precision))


def calibration_batches(subnets: Subnets, arch: Arch) -> Iterator[Tensor]:
    """The images by which the quantisation of a network is simulated, as it takes them."""
    split = Split(subnets.calibration.images_NCHW[:SIMULATED_IMAGES], subnets.calibration.labels[:SIMULATED_IMAGES])
    batches = subnets.pipeline.plain(split, subnets.resolution(arch))
    return (x_BCHW for x_BCHW, _ in batches)


def exported_model(subnets: Subnets, module: nn.Module, arch: Arch) -> bytes:
    """The very model of a cut subnet that is measured, verified and exported: ONNX in the precision of its search."""
    problem = subnets.problem
    shape = space_of(problem, arch).input_shape(arch)
    model = to_onnx(subnets.with_normalisation(module), shape)
    precision = problem.spec.precision
    if precision == "float32":
        return model
    sample = calibration_sample(problem.data, problem.spec.seed, *shape[1:])
    return converted(model, precision, sample, int8_mask(problem.space, arch, precision))


def score_exported(problem: Problem, model: bytes, arch: Arch, split: Split) -> TaskScores:
    """How good an exported model is over a split, by onnxruntime."""
    _, height, width = space_of(problem, arch).input_shape(arch)
    session, scorer = open_session(model), problem.spec.task.scorer(problem.data.shape.classes)
    for start in range(0, len(split), _BATCH):
        images = exported_run.resize(split.images_NCHW[start : start + _BATCH], height, width)
        scorer.add(run_session(session, images), split.labels[start : start + _BATCH])
    return scorer.scores()

"""The intake report: what of a user's model may be narrowed, skipped or scaled, and what may not and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from nas.core.operators import BatchNormOp, Conv2dOp, ConvTranspose2dOp, LinearOp, OpaqueOp
from nas.models.blocks import ResidualBlock, find_residual_blocks
from nas.models.channels import ChannelGroup, FixedChannels, analyse_channels, layer_name
from nas.models.graph import InvalidModel, ModelGraph, TensorShape, count_parameters
from nas.models.shapes import infer_shapes

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class ResolutionReport:
    """Whether height and width of the input may change: by steps of ``multiple`` pixels, or not, for ``reason``."""

    scalable: bool
    multiple: int | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """What reports say of it."""
        if not self.scalable:
            return f"fixed: {self.reason}"
        steps = "any number of" if self.multiple == 1 else f"multiples of {self.multiple}"
        return f"may change by {steps} pixels"


@dataclass(frozen=True)
class OutlinedLayer:
    """A layer with weights, as groups, blocks and fixed channels call it. ``channels``: of its output; ``size``: height
    of its output in pixels, 1 without height."""

    name: str
    kind: str
    channels: int
    size: int


@dataclass(frozen=True)
class OpaqueOperator:
    """An operator that the intake does not know, such as ``aten.sort.default``: it is run as it is, and channels that
    it reads stay. ``module``: where it is; ``reason``: what of it is not known."""

    module: str
    operator: str
    reason: str


@dataclass(frozen=True)
class IntakeReport:
    """Counts are those of the model as it came. ``batch_norms`` counts batch norms; 0 with convolutions means that they
    were folded, or that the model never had any. ``any_batch``: it takes any number of images at once. ``layers``: all
    layers with weights, in the order of the model; ``opaque``: operators that are not known."""

    inputs: tuple[tuple[str, TensorShape], ...]
    outputs: tuple[TensorShape, ...]
    parameters: int
    convolutions: int
    batch_norms: int
    any_batch: bool
    groups: tuple[ChannelGroup, ...]
    fixed: tuple[FixedChannels, ...]
    blocks: tuple[ResidualBlock, ...]
    resolution: ResolutionReport
    layers: tuple[OutlinedLayer, ...]
    opaque: tuple[OpaqueOperator, ...] = ()

    def to_json(self) -> bytes:
        """The report as JSON."""
        return _ADAPTER.dump_json(self)

    @staticmethod
    def from_json(text: bytes) -> IntakeReport:
        """The report that ``to_json`` wrote. Raises InvalidModel for anything else."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise InvalidModel(f"expected the JSON of an intake report, got: {error}") from None


def report_intake(graph: ModelGraph) -> IntakeReport:
    """Analyse a graph."""
    analysis = analyse_channels(graph)
    return IntakeReport(
        inputs=tuple((value.name, value.shape) for value in graph.inputs),
        outputs=tuple(graph.shapes[name] for name in graph.outputs),
        parameters=count_parameters(graph),
        convolutions=sum(isinstance(node.operator, Conv2dOp) for node in graph.nodes),
        batch_norms=sum(isinstance(node.operator, BatchNormOp) for node in graph.nodes),
        any_batch=takes_any_batch(graph),
        groups=analysis.groups,
        fixed=analysis.fixed,
        blocks=find_residual_blocks(graph),
        resolution=_report_resolution(graph),
        layers=_outline(graph),
        opaque=_opaque(graph),
    )


def _outline(graph: ModelGraph) -> tuple[OutlinedLayer, ...]:
    layers: dict[str, OutlinedLayer] = {}
    for node in graph.nodes:
        if isinstance(node.operator, Conv2dOp | ConvTranspose2dOp | LinearOp):
            is_map = len(node.shape) == 4 and not isinstance(node.operator, LinearOp)
            channels, size = (node.shape[1], node.shape[2]) if is_map else (node.shape[-1], 1)
            layers.setdefault(layer_name(node), OutlinedLayer(layer_name(node), node.operator.kind, channels, size))
    return tuple(layers.values())


def _opaque(graph: ModelGraph) -> tuple[OpaqueOperator, ...]:
    """One for each place and operator, in the order of the model."""
    operators = [
        OpaqueOperator(node.module or "the model", node.operator.operator, node.operator.reason)
        for node in graph.nodes
        if isinstance(node.operator, OpaqueOp)
    ]
    return tuple(dict.fromkeys(operators))


def takes_any_batch(graph: ModelGraph) -> bool:
    """Whether all outputs have one more row with one more image."""
    for images in (graph.batch + 1, 2 * graph.batch + 1):
        try:
            shapes = infer_shapes(graph, {v.name: (images, *v.shape[1:]) for v in graph.inputs})
        except InvalidModel:
            return False
        if any(shapes[name][:1] != (images,) for name in graph.outputs):
            return False
    return True


def _report_resolution(graph: ModelGraph) -> ResolutionReport:
    image = graph.inputs[0]
    if len(graph.inputs) != 1 or len(image.shape) != 4:
        return ResolutionReport(False, reason="expected one input of shape (images, channels, height, width)")
    reason = ""
    for multiple in MULTIPLES:
        reason = _misfit(graph, multiple)
        if not reason:
            return ResolutionReport(True, multiple)
    return ResolutionReport(False, reason=reason)


def _misfit(graph: ModelGraph, pixels: int) -> str:
    """What does not fit if the image grows by ``pixels``, once or several times; empty if everything does."""
    image = graph.inputs[0]
    for count in range(1, MULTIPLES[-1] // pixels + 1):
        larger = replace(image, shape=(*image.shape[:2], *(size + count * pixels for size in image.shape[2:])))
        try:
            shapes = infer_shapes(graph, {image.name: larger.shape})
        except InvalidModel as error:
            return str(error)
        for name in graph.outputs:
            if shapes[name][:2] != graph.shapes[name][:2]:
                return f"output {name}: expected {list(graph.shapes[name][:2])} to remain, got {list(shapes[name][:2])}"
    return ""


_ADAPTER = TypeAdapter(IntakeReport)

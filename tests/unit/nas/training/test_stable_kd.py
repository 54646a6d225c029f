"""A student learns block by block from its parent, before it learns end to end."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.ports import Problem
from nas.core.spec import SearchSpec, parse_spec
from nas.models.execution import GraphModule
from nas.training.distillation import Distillation, Teacher
from nas.training.pipeline import Pipeline
from nas.training.stable_kd import BlockwiseDistillation, active_ends, block_ends, cut_points, recorded
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from tests.support.compressing import compress_problem
from tests.support.models import SIDE
from tests.support.parents import read_case

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 4
RECIPE = StandaloneRecipe(
    epochs=4, batch_size=40, lr=0.01, weight_decay=0.0, distillation=Distillation(blocks=BLOCKS, weight=1.0)
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return compress_problem()


def network(problem: Problem, *, narrow: bool) -> GraphModule:
    """The parent, or its narrowest version with all blocks."""
    space = problem.space
    assert space.pretrained_genes is not None
    genes = [
        0 if narrow and decision.axis == "width" else own
        for decision, own in zip(space.decisions, space.pretrained_genes, strict=True)
    ]
    module = space.supernet(0).subnet(Arch(space.id, tuple(genes))).eval()
    assert isinstance(module, GraphModule)
    return module


def images() -> torch.Tensor:
    return torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def cut(problem: Problem, *, narrow: bool) -> tuple[GraphModule, GraphModule, BlockwiseDistillation]:
    student, teacher = network(problem, narrow=narrow), network(problem, narrow=False)
    return student, teacher, BlockwiseDistillation(student, teacher, BLOCKS, 10, images(), images())


def test_a_value_beside_a_shortcut_is_no_cut() -> None:
    graph = read_case("resnet").graph
    points = cut_points(graph)
    additions = {node.name for node in graph.nodes if node.operator.kind == "binary"}
    inside = {
        node.operands[i] for node in graph.nodes if node.name in additions for i in range(2) if node.shape
    } - additions
    assert points
    assert not {name for name in inside if len(graph.readers[name]) == 1} & set(points)
    assert not set(cut_points(read_case("unet").graph)) & {  # a skip connection is alive beside all that is deeper
        node.name for node in read_case("unet").graph.nodes if node.operator.kind == "conv_transpose2d"
    }


def test_blocks_are_merged_in_the_middle_of_training() -> None:
    ends = ("a", "b", "c")
    by_epoch = [active_ends(ends, epoch, 10) for epoch in range(10)]
    assert by_epoch == [ends] * 3 + [("b",)] * 2 + [()] * 5
    assert active_ends(("a",), 0, 10) == ("a",)
    assert active_ends(("a",), 5, 10) == ()
    assert active_ends(ends, 0, 1) == ends


def test_no_gradient_crosses_from_block_to_block(problem: Problem) -> None:
    student, teacher, blockwise = cut(problem, narrow=True)
    assert len(blockwise.ends) == BLOCKS - 1
    with blockwise.taught(student, recorded(teacher, blockwise.ends, images())) as losses:
        student(images())
    order = [node.name for node in student.graph.nodes]
    parameters = {name: student.tensor(name) for name in (value.name for value in student.graph.learned)}
    borders = [-1, *(order.index(end) for end in blockwise.ends)]
    for i, loss in enumerate(losses.losses):
        grads = torch.autograd.grad(loss, [*parameters.values()], retain_graph=True, allow_unused=True)
        touched = {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}
        own = {
            operand
            for node in student.graph.nodes[borders[i] + 1 : borders[i + 1] + 1]
            for operand in node.operands
            if operand in parameters
        }
        assert touched == own != set()


def test_a_student_that_equals_its_teacher_has_no_loss(problem: Problem) -> None:
    student, teacher, blockwise = cut(problem, narrow=False)
    features = recorded(teacher, blockwise.ends, images())
    with torch.no_grad(), blockwise.taught(student, features) as losses:
        expected, outputs = teacher(images()), student(images())
    assert [float(loss) for loss in losses.losses] == [0.0] * (BLOCKS - 1)
    assert torch.equal(outputs, expected)


def test_the_first_maps_are_those_of_least_squares(problem: Problem) -> None:
    student, teacher, blockwise = cut(problem, narrow=True)
    features = recorded(teacher, blockwise.ends, images())
    with torch.no_grad(), blockwise.taught(student, features) as losses:
        student(images())
    assert all(float(loss) < 1.0 for loss in losses.losses)  # 1: the mean alone
    assert any(isinstance(linear, nn.Linear) for linear in blockwise.to_student)


def trainer(problem: Problem, recipe: StandaloneRecipe) -> StandaloneTrainer:
    pipeline, student = Pipeline.of(problem, "cpu"), network(problem, narrow=True)
    teacher = Teacher(network(problem, narrow=False), SIDE, pipeline.preprocessing)
    return StandaloneTrainer(student, SIDE, problem.data, pipeline, recipe, 0, teacher)


def test_training_by_blocks_resumes_bit_by_bit_and_ends_as_plain_distillation_steps(problem: Problem) -> None:
    uninterrupted, resumed = trainer(problem, RECIPE), trainer(problem, RECIPE)
    for epoch in range(RECIPE.epochs):
        if epoch == 1:
            buffer = io.BytesIO()
            torch.save(resumed.state_dict(), buffer)
            buffer.seek(0)
            resumed = trainer(problem, RECIPE)
            resumed.load_state_dict(torch.load(buffer, weights_only=True))
        assert uninterrupted.epoch(epoch) == resumed.epoch(epoch)
    plain = trainer(problem, replace(RECIPE, distillation=Distillation(weight=1.0)))
    plain.module.load_state_dict(uninterrupted.module.state_dict())
    assert plain.step(RECIPE.epochs - 1, 0) == pytest.approx(uninterrupted.step(RECIPE.epochs - 1, 0), rel=1e-6)


def test_blocks_are_for_a_model_and_its_parent(problem: Problem) -> None:
    with pytest.raises(InvalidSpec, match=r"distillation\.blocks: expected teacher 'parent'"):
        parse_spec(SearchSpec, {"retrain": {"teacher": "largest", "distillation": {"blocks": 4}}})
    graph = network(problem, narrow=False).graph
    with pytest.raises(InvalidSpec, match=r"distillation\.blocks: expected at most \d+, .* got 1000"):
        block_ends(graph, graph, 1000)
    with pytest.raises(InvalidSpec, match="expected a model of yours and its parent"):
        BlockwiseDistillation(nn.Flatten(), nn.Flatten(), 2, 1, images(), images())

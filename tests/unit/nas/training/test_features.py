"""The features of networks, of modules and of users' models: what their classifiers read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.models.execution import GraphModule, build
from nas.models.reading.exported import read_exported
from nas.training.distillation import Distillation, Teacher
from nas.training.features import classifier_inputs, feature_channels, feature_projection
from nas.training.pipeline import Pipeline
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from tests.support.compressing import compress_problem
from tests.support.models import CASES, SIDE, make_model, save_exported

pytestmark = pytest.mark.usefixtures("one_thread")


def graph_module(name: str, folder: Path) -> GraphModule:
    [case] = [case for case in CASES if case.name == name]
    model = read_exported(save_exported(make_model(case), folder / "model.pt2"), 1 << 28)
    return build(model.graph, model.weights)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_fused"])
def test_the_last_linear_layer_of_a_graph_makes_the_logits_of_the_features(name: str, tmp_path: Path) -> None:
    module = graph_module(name, tmp_path)
    node = next(node for node in reversed(module.graph.nodes) if node.operator.kind == "linear")
    with torch.no_grad(), classifier_inputs(module) as features:
        logits_BK = module(images())
        expected_BK = F.linear(features[0], module.tensor(node.operands[1]), module.tensor(node.operands[2]))
    assert features[0].shape == (3, feature_channels(module))
    assert torch.allclose(logits_BK, expected_BK, atol=1e-5)
    assert len(features) == 1
    module(images())
    assert len(features) == 1  # nothing is recorded outside


def test_features_of_maps_are_means_over_positions(tmp_path: Path) -> None:
    module = graph_module("unet", tmp_path)
    with torch.no_grad(), classifier_inputs(module) as features:
        output = module(images())
        node = next(node for node in reversed(module.graph.nodes) if node.operator.kind == "conv2d")
        assert node.name == module.graph.outputs[0]  # of one pixel: the mean of its output is linear in the features
        weight = module.tensor(node.operands[1]).mean((2, 3))
    assert weight.shape[1] == features[0].shape[1] == feature_channels(module)
    assert torch.allclose(
        output.mean((2, 3)), F.linear(features[0], weight, module.tensor(node.operands[2])), atol=1e-5
    )


def test_networks_of_two_kinds_are_compared_through_a_linear_map(tmp_path: Path) -> None:
    graph = graph_module("resnet", tmp_path)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(7, 5))
    assert feature_projection(plain, graph)(torch.ones(2, 7)).shape == (2, feature_channels(graph))
    assert isinstance(feature_projection(graph, graph), nn.Identity)
    with pytest.raises(InvalidSpec, match="end in a linear layer"):
        feature_projection(graph, nn.Conv2d(3, 4, 1))


def test_a_narrowed_model_comes_closer_to_the_features_of_its_parent() -> None:
    problem = compress_problem()
    net, space, pipeline = problem.space.supernet(0), problem.space, Pipeline.of(problem, "cpu")
    assert space.pretrained_genes is not None
    parent, narrow = Arch(space.id, space.pretrained_genes), Arch(space.id, (0,) * len(space.decisions))
    side = space.input_shape(parent)[1]
    teacher = Teacher(net.subnet(parent).eval(), side, pipeline.preprocessing)
    recipe = StandaloneRecipe(
        epochs=6, batch_size=40, lr=0.05, weight_decay=0.0, distillation=Distillation(weight=0.0, features=100.0)
    )
    student = net.subnet(narrow)
    trainer = StandaloneTrainer(student, space.input_shape(narrow)[1], problem.data, pipeline, recipe, 0, teacher)
    losses = [trainer.epoch(i) for i in range(recipe.epochs)]
    assert feature_channels(student) < feature_channels(teacher.module)
    assert losses[-1] < 0.7 * losses[0]

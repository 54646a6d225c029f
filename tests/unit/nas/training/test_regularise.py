"""Training-only regularisers: path dropout and an auxiliary classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from nas.core.regularisers import regularisers
from nas.core.retraining import RetrainSpec
from nas.core.spec import DataSpec
from nas.datasets import digits
from nas.training.pipeline import Pipeline
from nas.training.regularise import auxiliary_of, drop_path, path_dropout, paths_of
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from search_spaces.darts_cell.cell import from_genotype
from search_spaces.darts_cell.space import build
from search_spaces.mobilenet_v3.space import build as mobile
from search_spaces.nas_bench_201.cell import CONV3, NONE, SKIP
from search_spaces.nas_bench_201.space import build as bench201
from tests.support.darts import DARTS_V2

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = ImageShape(1, 8, 8, 10)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_evaluation_network_with_its_second_classifier() -> None:
    """CIFAR-10, 36 channels, 20 cells: 3,349,342 parameters, and the published head on 576 channels beside them."""
    space = build({"preset": "evaluation"}, ImageShape(3, 32, 32, 10))
    with torch.device("meta"):
        net = space.supernet(0).subnet(Arch(space.id, from_genotype(DARTS_V2)))
    assert count(net) == 3_349_342
    auxiliary = auxiliary_of(net)
    assert auxiliary is not None
    tap, head = auxiliary
    assert tap is net.cells[13]
    assert count(head) == 576 * 128 + 2 * 128 + 128 * 768 * 2 * 2 + 2 * 768 + 768 * 10 + 10 == 476_426
    assert head.eval()(torch.randn(2, 576, 8, 8)).shape == (2, 10)
    assert space.regularisers == {"drop_path": 0.2, "auxiliary": 0.4}


def test_whole_images_are_dropped_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, 1, 1)
    y = drop_path(x, 0.2)
    assert torch.equal(y[:, 0], y[:, 1])
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)


def test_identities_are_never_dropped_and_nothing_is_left_behind() -> None:
    space = bench201({"preset": "digits"}, DIGITS)
    net = space.supernet(0).subnet(Arch(space.id, (CONV3, NONE, SKIP, SKIP, NONE, CONV3))).train()
    paths = paths_of(net)
    assert len(paths) == 3 * 2
    assert not any(isinstance(p, nn.Identity) for p in paths)
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = net(x)
    with path_dropout(paths, 0.9999):
        skips_only = net(x)
    skips = space.supernet(0).subnet(Arch(space.id, (NONE, NONE, NONE, SKIP, NONE, NONE))).train()
    torch.testing.assert_close(skips_only, skips(x))
    torch.testing.assert_close(net(x), before)
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("preset", ["darts_cell", "nas_bench_201", "mobilenet_v3"])
def test_spaces_offer_what_they_can_and_are_off_unless_large(preset: str) -> None:
    space = {"darts_cell": build, "nas_bench_201": bench201, "mobilenet_v3": mobile}[preset](
        {"preset": "digits"}, DIGITS
    )
    assert regularisers(RetrainSpec(), space) == {"drop_path": 0.0, "auxiliary": 0.0}
    net = space.supernet(0).subnet(Arch(space.id, tuple(len(d.choices) - 1 for d in space.decisions)))
    for name, offered in (("drop_path", bool(paths_of(net))), ("auxiliary", auxiliary_of(net) is not None)):
        retrain = RetrainSpec.model_validate({name: 0.3})
        if offered:
            assert regularisers(retrain, space)[name] == 0.3
        else:
            with pytest.raises(InvalidSpec, match=f"retrain.{name}: networks of {preset}"):
                regularisers(retrain, space)


def trained(recipe: StandaloneRecipe, cut: bool = False) -> StandaloneTrainer:
    data = digits.load(DataSpec(params={"max_train": 40, "max_val": 20, "max_test": 20}), 0)
    space = build({"preset": "digits"}, data.shape)
    genes = np.random.default_rng(0).integers(0, [len(d.choices) for d in space.decisions])

    def begin() -> StandaloneTrainer:
        net = space.supernet(0).subnet(Arch(space.id, tuple(genes.tolist())))
        return StandaloneTrainer(net, 8, data, Pipeline(data, "cpu"), recipe, 0)

    trainer = begin()
    for epoch in range(recipe.epochs):
        trainer.epoch(epoch)
        if cut:
            resumed = begin()
            resumed.load_state_dict(trainer.state_dict())
            trainer = resumed
    return trainer


def test_training_with_both_resumes_bit_by_bit_and_keeps_neither() -> None:
    plain = StandaloneRecipe(epochs=2, batch_size=40, lr=0.05, weight_decay=1e-4)
    both = replace(plain, drop_path=0.3, auxiliary=0.4)
    uninterrupted, resumed, without = trained(both), trained(both, cut=True), trained(plain)
    assert uninterrupted.module.state_dict().keys() == without.module.state_dict().keys()
    for name, tensor in uninterrupted.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name])
    assert uninterrupted.state_dict()["head"]
    assert not without.state_dict()["head"]
    changed = [
        n for n, t in uninterrupted.module.state_dict().items() if not torch.equal(t, without.module.state_dict()[n])
    ]
    assert any("stem" in n for n in changed)

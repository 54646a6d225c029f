"""Networks that a front is compared with are verified as its members are, and never on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, as_genes
from nas.core.candidates import CandidateTable
from nas.core.errors import InvalidSpec
from nas.core.events import Evaluated, Event, Measured, fold_all
from nas.core.fronts import compute_front
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, ReferenceSpec, SpaceSpec, parse_spec
from nas.engine import stage_names
from nas.stages.fronts import front_context, front_of
from nas.stages.references import ReferenceStage
from nas.stages.results import ReferencesResult, RetrainResult
from nas.training.standalone import unpack
from tests.support.engine import SPEC, RuleDevice, estimate_cost, problem, run, stored

LARGEST = ReferenceSpec(name="largest", genes=tuple(len(d.choices) - 1 for d in problem().space.decisions))
REFERRING = SPEC.model_copy(
    update={
        "references": (
            LARGEST,
            ReferenceSpec(name="smallest", genes=(0,) * len(LARGEST.genes)),
            ReferenceSpec(name="ResNet-20"),
        ),
        "budget": BudgetSpec(evaluations=8, verified=2),
        "retrain": RetrainSpec(networks=1, epochs=1, trials=1, batch_size=40),
    }
)


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, problem(REFERRING)))), folder


@pytest.mark.long
def test_references_are_scored_retrained_and_measured(finished_search: tuple[list[Event], Path]) -> None:
    state = fold_all(finished_search[0])
    assert tuple(state.finished) == stage_names(REFERRING)
    references = state.of("reference")
    assert len(references) == 3
    assert {"val_accuracy", "trained_accuracy", "test_accuracy", "measured_ms"} <= references[0].metrics.keys()
    assert all(c.measurement is not None for c in references)
    names = ReferencesResult.require(state.finished).names
    assert [names[c.arch.id] for c in references] == ["largest", "smallest", "ResNet-20"]
    assert stage_names(SPEC) == tuple(name for name in stage_names(SPEC) if name != "references")


@pytest.mark.long
def test_a_network_of_another_space_is_trained_and_measured_as_others_are(
    finished_search: tuple[list[Event], Path],
) -> None:
    events, folder = finished_search
    state = fold_all(events)
    space = registry.build_space(
        SpaceSpec(name="resnet20_downsampling", params={"preset": "resnet20"}), problem(REFERRING).space.shape
    )
    resnet = state.of("reference")[-1]
    assert resnet.arch == Arch(space.id, space.published["ResNet-20"])
    assert {name: resnet.metrics[name] for name in ("params", "macs")} == {
        name: space.costs(as_genes([resnet.arch]))[name][0] for name in ("params", "macs")
    }
    assert not {"predicted_ms", "upper_ms", "val_accuracy"} & resnet.metrics.keys()  # nothing knows them
    assert (resnet.status, resnet.promised_ms) == ("verified", None)
    assert resnet.measurement is not None
    assert resnet.metrics["measured_ms"] == pytest.approx(0.01 + 1e-6 * resnet.metrics["params"], rel=0.05)
    weights_blob = RetrainResult.require(state.finished).networks[resnet.arch.id].weights
    _, weights = unpack(FolderBlobs(folder).get(weights_blob), "cpu")
    assert weights is not None
    space.supernet(0).subnet(resnet.arch).load_state_dict(weights["net"])


def test_no_reference_is_on_a_front(finished_search: tuple[list[Event], Path]) -> None:
    state = fold_all(finished_search[0])
    front = front_of(REFERRING, state)
    assert {c.origin for c in (*front.members, *front.baseline)} == {"search", "baseline"}
    reference_table = CandidateTable.of(state.of("reference"))
    front = compute_front(REFERRING, reference_table, front_context(state.finished))
    assert front.members == front.baseline == ()
    assert len(reference_table.of_origin("reference")) == 3


@pytest.mark.long
def test_a_search_that_is_cut_among_its_references_ends_the_same(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    expected = fold_all(events)
    marks = [
        i
        for i, e in enumerate(events)
        if (isinstance(e, Evaluated) and e.candidates[0].origin == "reference")
        or (isinstance(e, Measured) and e.origin == "reference")
    ]
    for cut in (marks[0], marks[-1]):
        device, before = RuleDevice(), events[: cut + 1]
        state = fold_all(run(folder, problem(REFERRING), before, device), fold_all(before))
        assert state.candidates == expected.candidates
        done = sum(isinstance(e, Measured) for e in before)
        assert device.measured == sum(isinstance(e, Measured) for e in events) - done


def test_references_have_a_price(tmp_path: Path) -> None:
    cost = estimate_cost(tmp_path, problem(REFERRING), [ReferenceStage()])
    assert [(s.stage, s.steps) for s in cost.stages] == [("references", 3)]
    assert cost.seconds > 0


def test_references_must_be_networks_of_the_space_with_names_of_their_own(tmp_path: Path) -> None:
    for references, message in (
        ([{"name": "odd", "genes": [0, 1]}], "'odd'.*expected genes of shape"),
        ([{"name": "a", "genes": LARGEST.genes}, {"name": "a", "genes": LARGEST.genes}], "each name once, got 'a'"),
    ):
        spec = parse_spec(type(SPEC), {**SPEC.model_dump(), "references": references})
        with pytest.raises(InvalidSpec, match=message):
            estimate_cost(tmp_path, problem(spec), [ReferenceStage()])

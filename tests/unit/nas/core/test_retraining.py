"""How found networks are retrained: what a spec may say, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nas.core.errors import InvalidSpec
from nas.core.retraining import RetrainSpec, TeacherSpec, teacher_as_text, teacher_from_text
from nas.core.spec import SearchSpec, parse_spec
from nas.engine import stage_names

MODEL = {"name": "own_model", "model": "mine", "params": {}}


def spec(retrain: dict[str, Any], **fields: Any) -> SearchSpec:
    return parse_spec(SearchSpec, {"retrain": retrain, **fields})


def test_the_teacher_is_a_name_or_a_model_of_another_search() -> None:
    for teacher in ("none", "largest", {"search": "abc", "network": "def"}):
        read = spec({"teacher": teacher}).retrain
        assert read is not None
        assert read.model_dump(mode="json")["teacher"] == teacher
    assert spec({"teacher": {"search": "abc", "network": "def"}}).retrain == RetrainSpec(
        teacher=TeacherSpec(search="abc", network="def")
    )
    with pytest.raises(InvalidSpec, match=r"retrain\.teacher.*'none', 'parent' or 'largest', got 'biggest'"):
        spec({"teacher": "biggest"})
    with pytest.raises(InvalidSpec, match=r"retrain\.teacher\.model\.network: Field required"):
        spec({"teacher": {"search": "abc"}})


@pytest.mark.parametrize(
    ("retrain", "message"),
    [
        ({"ema_decay": 1.0}, r"retrain\.ema_decay: .*less than 1, got 1\.0"),
        ({"mixup": -1}, r"retrain\.mixup: .*greater than or equal to 0"),
        ({"cutout": 1.5}, r"retrain\.cutout: .*less than or equal to 1"),
        ({"min_crop_area": 0}, r"retrain\.min_crop_area: .*greater than 0"),
        ({"teacher": "largest", "distillation": {"temperature": 0}}, r"temperature: .*greater than 0"),
        ({"teacher": "largest", "distillation": {"weight": 1.2}}, r"weight: .*less than or equal to 1"),
        ({"epochs": 5, "warmup_epochs": 5}, r"warmup_epochs: expected less than epochs, which is 5, got 5"),
        ({"distillation": {"weight": 0.5}}, r"distillation: expected a teacher to learn from, got teacher 'none'"),
        ({"start": "zero"}, r"retrain\.start: .*'scratch' or 'inherited', got 'zero'"),
        ({"teacher": "parent"}, r"expected space\.model, and the space 'mobilenet_v3' has none"),
    ],
)
def test_what_makes_no_sense_is_refused(retrain: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        spec(retrain)


def test_what_does_not_fit_the_task_is_refused() -> None:
    agreement = {"data": {"task": "agreement"}, "objectives": [{"name": "agreement"}, {"name": "latency"}]}
    for element in ({"mixup": 0.2}, {"cutout": 0.5}, {"min_crop_area": 0.5}):
        with pytest.raises(InvalidSpec, match=f"retrain.{next(iter(element))}: expected none.*'agreement'"):
            spec(element, **agreement)
    with pytest.raises(InvalidSpec, match="a model of another search teaches classes, and the task 'agreement'"):
        spec({"teacher": {"search": "a", "network": "b"}}, **agreement)


def test_networks_of_a_model_start_from_its_weights() -> None:
    assert spec({}, space=MODEL).inherits_weights
    assert not spec({}).inherits_weights
    assert not SearchSpec().inherits_weights
    assert spec({"start": "inherited"}).inherits_weights
    with pytest.raises(InvalidSpec, match=r"retrain\.start: expected 'inherited'.*got 'scratch'"):
        spec({"start": "scratch"}, space=MODEL)
    read = spec({"teacher": "parent", "distillation": {"features": 0.5}}, space=MODEL).retrain
    assert read is not None
    assert read.distillation.features == 0.5


@pytest.mark.parametrize("field", [{"start": "inherited"}, {"teacher": "largest"}])
def test_weights_need_a_supernet(field: dict[str, Any]) -> None:
    zero_cost = {"strategy": {"name": "zero_cost"}}
    with pytest.raises(InvalidSpec, match=r"needs a trained supernet.*got 'zero_cost', whose stages are estimate"):
        stage_names(spec(field, **zero_cost))
    assert "retrain" in stage_names(spec(field))
    assert "retrain" in stage_names(spec(field, **zero_cost, supernet="another"))
    assert "retrain" in stage_names(spec({}, **zero_cost))


def test_what_the_spec_sets_is_not_varied() -> None:
    free = {h.name: h for h in RetrainSpec().hyperparameters(inherits=False)}
    assert (free["lr"].low, free["lr"].high, free["lr"].default) == (0.01, 0.4, 0.1)
    inherited = {h.name: h for h in RetrainSpec(weight_decay=0.0).hyperparameters(inherits=True)}
    assert inherited["lr"].high <= free["lr"].default
    assert (inherited["weight_decay"].low, inherited["weight_decay"].high, inherited["weight_decay"].log) == (
        0,
        0,
        False,
    )


def test_teachers_as_people_write_them() -> None:
    model = TeacherSpec(search="abc", network="def")
    for teacher in ("none", "largest", model):
        assert teacher_from_text(teacher_as_text(teacher)) == teacher
    assert teacher_from_text(" abc/def ") == model
    with pytest.raises(InvalidSpec, match="expected none, parent, largest or SEARCH/NETWORK, got 'abc/'"):
        teacher_from_text("abc/")

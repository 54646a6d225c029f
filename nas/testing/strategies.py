"""What every strategy must fulfil."""

from __future__ import annotations

from nas.core import registry
from nas.core.spec import SearchSpec, StrategySpec
from nas.testing.errors import assert_raises


def check_strategy(name: str) -> None:
    """The parameters have defaults, survive JSON, and refuse unknown names; stages have distinct names."""
    strategy = registry.load_strategy(name)
    assert strategy.name == name
    assert strategy.summary.strip()
    stages = strategy.stage_names(SearchSpec(strategy=StrategySpec(name=name)))
    assert len(set(stages)) == len(stages) >= 1, stages
    model = strategy.params_model
    values = model().model_dump(mode="json")
    assert values == model.model_validate(values).model_dump()
    assert_raises(ValueError, lambda: model(no_such_parameter=1), "no_such_parameter")

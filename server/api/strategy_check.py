"""The strategy of a spec, and its parameters."""

from __future__ import annotations

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.spec import SearchSpec, booleans_for_numbers, parse_spec


def strategy_of(spec: SearchSpec) -> Strategy:
    """The strategy that a spec names. Raises UnknownName, and InvalidSpec for wrong parameters."""
    strategy = registry.load_strategy(spec.strategy.name)
    check_params(strategy, spec)
    return strategy


def check_params(strategy: Strategy, spec: SearchSpec) -> None:
    """Raise InvalidSpec for parameters that the strategy does not take, with the nearest names."""
    model, params = strategy.params_model, spec.strategy.params
    if wrong := booleans_for_numbers(model, params):
        raise InvalidSpec(f"parameters of {spec.strategy.name}: {wrong[0]}: expected a number, got a boolean")
    try:
        parse_spec(model, params)
    except InvalidSpec as error:
        names = ", ".join(model.model_fields)
        raise InvalidSpec(f"parameters of {spec.strategy.name}: {error} (expected: {names})") from error

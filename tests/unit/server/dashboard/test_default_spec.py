"""What the form of a search offers first."""

from __future__ import annotations

from nas.core.spec import DataSpec
from nas.schemas.service import SpaceSchema, StrategySchema
from server.dashboard.submit.fields import SubmitOptions, default_spec


def test_a_search_over_a_model_starts_with_the_data_that_it_was_judged_on() -> None:
    signs = DataSpec(name="npz", path="/data/signs.npz", task="regression")
    options = SubmitOptions(
        spaces=[SpaceSchema(name="own_model", summary="", of_model=True)],
        strategies=[StrategySchema(name="compress", summary="")],
        datasets=["digits", "npz"],
        devices=[],
        parents=[],
        models={"signs": signs, "unjudged": None},
    )
    spec = default_spec(options, "signs")
    assert (spec.space.model, spec.data) == ("signs", signs)
    assert [objective.name for objective in spec.objectives] == ["mae", "latency"]
    assert default_spec(options, "unjudged").data == DataSpec()

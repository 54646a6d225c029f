"""A small few-shot search over NAS-Bench-201 cells, and a small mobile space."""

from __future__ import annotations

from typing import Any

from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec

PARAMS: dict[str, Any] = {
    "subspaces": 2,
    "repeats": 1,
    "warmup_epochs": 2,
    "subspace_epochs": 1,
    "batch_size": 40,
    "rank_networks": 4,
    "rank_epochs": 1,
}


SPEC = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
    data=DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
    strategy=StrategySpec(name="few_shot", params={**PARAMS, "checkpoint_s": 1e-9}),
    budget=BudgetSpec(evaluations=8, verified=2),
    export=ExportSpec(count=1, int8=False),
)


MOBILE = {"preset": "digits", "resolutions": [4, 6], "depths": [1, 2], "final": 32, "hidden": 32}

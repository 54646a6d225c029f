"""The result of the discretisation stage of a gradient search."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from nas.schemas.jobs import StageSchema

_STAGE = "discretize"


class SeedResult(BaseModel):
    """The architecture of one seed. ``val_accuracy`` in %, None if its weights no longer exist."""

    model_config = ConfigDict(frozen=True)
    seed: int
    val_accuracy: float | None


class SubspaceResult(BaseModel):
    """The architecture of one subspace of a partitioned space."""

    model_config = ConfigDict(frozen=True)
    subspace: int
    val_accuracy: float | None


class DiscretizationSummary(BaseModel):
    """The validation accuracies of the discretised architectures: by seed, or by subspace of a partitioned space."""

    model_config = ConfigDict(frozen=True)
    seeds: tuple[SeedResult, ...] = ()
    subspaces: tuple[SubspaceResult, ...] = ()
    mean_val_accuracy: float | None = None
    deviation_val_accuracy: float | None = None

    @staticmethod
    def of(stages: Iterable[StageSchema]) -> DiscretizationSummary:
        """The summary of a search; empty if its strategy has no such stage or it has not finished."""
        result = next((stage.result for stage in stages if stage.name == _STAGE), {})
        return DiscretizationSummary.model_validate(result)

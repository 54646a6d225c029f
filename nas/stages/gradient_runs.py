"""Runs of gradient search as checkpoints keep them: JSON text beside the weights of a supernet. What is at its default
is left out, as by earlier versions, which knew fewer fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AliasChoices, Field, TypeAdapter


@dataclass(frozen=True)
class GradientRun:
    """One run from a ``seed``: ``genes`` of its network, ``series`` of the networks before it, ``scores`` of operations
    by edge (E, O), 0 to 1, ``signs`` of collapse. ``val_accuracy`` in %, with inherited weights. ``supernet``: the blob
    of its weights; None for a run inside ``subspace`` (counted from 0) of a divided space, whose weights are in the
    supernet of all subspaces. ``conditioned``: that blob also holds the hypernetwork that gives the scores of every
    preference and device; ``genes`` and ``scores`` are those of its own bounds and devices."""

    seed: int
    genes: tuple[int, ...]
    series: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    val_accuracy: float
    signs: tuple[str, ...]
    steps: int
    supernet: str | None = None
    subspace: Annotated[int | None, Field(validation_alias=AliasChoices("subspace", "part"))] = None  # earlier: part
    conditioned: bool = False


_RUN = TypeAdapter(GradientRun)
_RUNS = TypeAdapter(tuple[GradientRun, ...])


def dump_run(run: GradientRun) -> str:
    """A run as JSON text."""
    return json.dumps(_RUN.dump_python(run, mode="json", exclude_defaults=True))


def load_run(text: str) -> GradientRun:
    """Inverse of ``dump_run``."""
    return _RUN.validate_json(text)


def dump_runs(runs: Sequence[GradientRun]) -> str:
    """Runs as JSON text."""
    return json.dumps(_RUNS.dump_python(tuple(runs), mode="json", exclude_defaults=True))


def load_runs(text: str) -> list[GradientRun]:
    """Inverse of ``dump_runs``."""
    return [*_RUNS.validate_json(text)]

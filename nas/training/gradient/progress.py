"""The progress of a differentiable search: every value that a resumed search needs beside tensors under training.

``GradientProgress`` is frozen and serialised here only; a checkpoint holds it beside the network, the architecture
parameters and the optimisers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from nas.training.gradient.pruning import Pressure
from nas.training.gradient.resource import Multiplier
from nas.training.weights import Weights

Tensor = torch.Tensor
_LISTS = ("alphas_by_epoch", "betas_by_epoch", "reported", "signs")


@dataclass(frozen=True, eq=False)
class TeacherState:
    """The weights and architecture parameters of an earlier epoch, which teach later ones."""

    net: Mapping[str, Tensor]
    alphas: Tensor


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a search trains, at the end of an epoch: the tensors of ``RelaxedModel.tensors``."""

    epoch: int
    tensors: Weights


@dataclass(frozen=True)
class CostSums:
    """Sums over the steps of an epoch: the expected cost of the relaxation and the cost of the discretised network."""

    expected_ms: float = 0.0
    discretised_ms: float = 0.0
    steps: int = 0

    def add(self, expected_ms: float, discretised_ms: float) -> CostSums:
        """The sums with one step more."""
        return CostSums(self.expected_ms + expected_ms, self.discretised_ms + discretised_ms, self.steps + 1)


@dataclass(frozen=True, eq=False)
class GradientProgress:
    """``alphas_by_epoch`` and ``betas_by_epoch``: architecture parameters at the end of each search epoch.
    ``eigenvalues``: (epoch, value). ``healthy_epoch``: the latest epoch without signs of collapse, -1 for none.
    ``reported``: kinds of signs with a warning already. ``ended_epoch``: the epoch whose architecture parameters an
    early stop restored. ``decided``: decisions made by perturbation. ``series``: discretised networks of pruned
    relaxations. ``earlier_streams``: begun by a version without named random streams. ``snapshots``: of the latest
    epochs with eigenvalues, to go back to. ``roll_backs``: how often that was done; ``repeated_epochs``: epochs that
    were trained again for it."""

    weight_decay: float
    temperature: float
    pressure: Pressure
    multiplier: Multiplier | None
    costs: CostSums = CostSums()
    series: tuple[tuple[int, ...], ...] = ()
    eigenvalues: tuple[tuple[int, float], ...] = ()
    alphas_by_epoch: tuple[Tensor, ...] = ()
    betas_by_epoch: tuple[Tensor, ...] = ()
    healthy_epoch: int = -1
    reported: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    ended_epoch: int | None = None
    decided: int = 0
    teachers: tuple[TeacherState, ...] = ()
    earlier_streams: bool = False
    snapshots: tuple[Snapshot, ...] = ()
    roll_backs: int = 0
    repeated_epochs: int = 0

    def eigenvalue_of(self, epoch: int) -> float | None:
        """That of the latest epoch with one, if it is this."""
        latest_epoch, eigenvalue = self.eigenvalues[-1] if self.eigenvalues else (-1, 0.0)
        return eigenvalue if latest_epoch == epoch else None

    def as_record(self) -> dict[str, object]:
        """Tensors and plain values only."""
        record = _plain(self)
        assert isinstance(record, dict)
        return record

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> GradientProgress:
        """Inverse of ``as_record``."""
        multiplier = record["multiplier"]
        structured = {
            "pressure": Pressure(**record["pressure"]),
            "multiplier": Multiplier(**multiplier) if multiplier is not None else None,
            "costs": CostSums(**record["costs"]),
            "series": tuple(tuple(int(g) for g in genes) for genes in record["series"]),
            "eigenvalues": tuple((int(epoch), float(value)) for epoch, value in record["eigenvalues"]),
            "teachers": tuple(TeacherState(**teacher) for teacher in record["teachers"]),
            "snapshots": tuple(Snapshot(**snapshot) for snapshot in record.get("snapshots", ())),
        }
        lists = {name: tuple(record.get(name, ())) for name in _LISTS}
        return GradientProgress(**{**record, **lists, **structured})

    @staticmethod
    def from_flat_state(state: Mapping[str, Any], start: GradientProgress) -> GradientProgress:
        """From a checkpoint of earlier versions, which held these values beside the tensors; ``start`` is the progress
        at the beginning of the same search."""
        weight, step, quiet = state["pressure"]
        expected_ms, discretised_ms, steps = state["cost"]
        multiplier = start.multiplier
        return replace(
            start,
            weight_decay=state["weight_decay"],
            temperature=state["temperature"],
            pressure=replace(start.pressure, weight=weight, step=step, quiet=quiet),
            multiplier=replace(multiplier, value=state["multiplier"]) if multiplier is not None else None,
            costs=CostSums(expected_ms, discretised_ms, steps),
            series=tuple(tuple(genes) for genes in state["series"]),
            eigenvalues=tuple((int(epoch), float(value)) for epoch, value in state["eigenvalues"]),
            alphas_by_epoch=tuple(state["past"]),
            healthy_epoch=state["healthy"],
            reported=tuple(state["told"]),
            signs=tuple(state["signs"]),
            ended_epoch=state["ended"],
            decided=state["decided"],
            teachers=tuple(TeacherState(**teacher) for teacher in state["teachers"]),
            earlier_streams=True,
        )


def uses_earlier_streams(state: Weights) -> bool:
    """Whether a search with this state was begun by a version without named random streams."""
    return "progress" not in state or bool(state["progress"]["earlier_streams"])


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries and tuples as lists, recursively; tensors stay."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value

"""A search over two devices: its spec, the events of its run, and its second device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas.core.device import Measurement, OnDevice
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    Measured,
    StageFinished,
)
from nas.core.spec import FleetSpec, SearchSpec
from server.store.store import Store
from tests.support import fakes

BOUNDS = {"bench": 8.0, "board": 24.0}


def fleet_spec(**fleet: Any) -> SearchSpec:
    """A search on bench and on board, which takes four times as long for the first gene, and as long for the others."""
    return fakes.search_spec(fleet=FleetSpec(**{"devices": ("bench", "board"), **fleet}))


def measured(median_ms: float | None) -> Measurement:
    return fakes.measurement(median_ms)


def candidate(genes: tuple[int, ...], accuracy: float, origin: Any = "search", by_share: bool = True) -> Candidate:
    bench, board = 1.0 + sum(genes), 1.0 + sum(genes) + 3.0 * genes[0]
    metrics = {"val_accuracy": accuracy, "params": 100.0 + 10 * sum(genes), "macs": 1000.0 + 100 * sum(genes)}
    metrics |= {"predicted_ms": max(bench, board), "upper_ms": 1.1 * max(bench, board)}
    if by_share:
        worst = 100.0 * max(bench / BOUNDS["bench"], board / BOUNDS["board"])
        metrics |= {"predicted_share": worst, "upper_share": 1.1 * worst}
    devices = {"bench": OnDevice(bench, 1.1 * bench), "board": OnDevice(board, 1.1 * board)}
    return Candidate(fakes.arch(*genes), origin, metrics, devices=devices)


REFERENCE = {"accuracy": 0.0, "latency": 150.0, "params": 1000.0, "macs": 10000.0}


ESTIMATED = StageFinished(
    "estimate",
    0.1,
    {
        "reference": REFERENCE,
        "fleet": {name: {"reference": {**REFERENCE, "latency": 30.0}} for name in BOUNDS},
    },
)


def log(by_share: bool = True) -> list[Event]:
    """Three networks scored, of which two are measured everywhere: one keeps both bounds, one breaks that of bench."""
    scored = [candidate((0, 1, 1), 70.0, by_share=by_share), candidate((0, 3, 3), 90.0, by_share=by_share)]
    scored += [candidate((3, 1, 1), 80.0, by_share=by_share), candidate((0, 1, 0), 60.0, "baseline", by_share=by_share)]
    tested = [Candidate(p.arch, p.origin, {"test_accuracy": p.metrics["val_accuracy"] - 1}) for p in scored[:3]]
    ends = [
        Measured(fakes.arch(0, 1, 1), "search", measured(3.0), 8.0, "bench"),
        Measured(fakes.arch(0, 1, 1), "search", measured(12.0), 24.0, "board"),
        Measured(fakes.arch(3, 1, 1), "search", measured(9.0), 8.0, "bench"),
        Measured(fakes.arch(3, 1, 1), "search", measured(15.0), 24.0, "board"),
    ]
    return [ESTIMATED, Evaluated(tuple(scored)), Evaluated(tuple(tested)), *ends]


VERIFIED = StageFinished("verify", 1.0, {"measured": True, "fleet": {name: {"measured": True} for name in BOUNDS}})


def add_board(store: Store) -> None:
    spec = fakes.device_spec(name="board")
    store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    blob = store.blobs.put(fakes.predictor_bytes((4.0, 1.0, 1.0)))
    fakes.run_log(store, fakes.device_log(blob, profile=replace(fakes.PROFILE, name="board")))

"""A space that nobody here has seen, as a package of its own: 22 layers of nine operations, a table of twenty devices
uploaded over REST, and ten measurements of a new one. Everything by public means, with the real service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.client import Client
from nas.core.metrics import spearman
from nas.core.spec import DeviceSpec, SpaceSpec, TableSpec
from predictors.storage import load_predictor
from server.store.store import open_store
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytest.importorskip("ray")
pytestmark = pytest.mark.long

LAYERS, OPERATIONS, DEVICES, NETWORKS, SAMPLES = 22, 9, 20, 300, 10
PACKAGE = f"""
import numpy as np
from nas.core.arch import Decision
from nas.core.plugins import SearchSpaceType
from nas.spaces.base import SpaceDefaults

class Stacked(SpaceDefaults):
    name = "stacked"

    def __init__(self, params, shape):
        self.params, self.shape, self.id = dict(params), shape, f"stacked-{{shape.classes}}"
        self.decisions = tuple(Decision(f"layer {{i + 1}}", tuple(range({OPERATIONS}))) for i in range({LAYERS}))

    def canonical(self, genes_NG):
        return genes_NG

    def costs(self, genes_NG):
        total = (genes_NG + 1).sum(axis=1).astype(float)
        return {{"params": 1e4 * total, "macs": 1e6 * total}}

    def features(self, genes_NG):
        return np.eye({OPERATIONS})[genes_NG].reshape(len(genes_NG), -1)

    def layers(self, arch):
        return []

    def input_shape(self, arch):
        return (self.shape.channels, 8, 8)

    def supernet(self, seed):
        raise NotImplementedError

STACKED = SearchSpaceType("stacked", "Layers of nine operations.", Stacked)
"""


def test_ten_samples_of_a_new_device_in_a_space_nobody_knows(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    about = packages / "stacked-1.0.dist-info"
    about.mkdir(parents=True)
    (packages / "stacked_space.py").write_text(PACKAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stacked\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[nas.search_spaces]\nstacked = stacked_space:STACKED\n")
    table, new_ms, genes = made_up()
    home = tmp_path / "home"
    home.mkdir()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HWNAS_", "RAY_"))}
    own["PYTHONPATH"] = os.pathsep.join([str(packages), str(ROOT)])
    log = home / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", "0"]
        child = subprocess.Popen(command, stdout=file, stderr=file, env=own, start_new_session=True)

    def address() -> str | None:
        assert child.poll() is None, log.read_text()
        ready = [line for line in log.read_text().splitlines() if "hwnas is ready: " in line]
        return ready[0].split("is ready: ")[1].split()[0] if ready else None

    try:
        with Client(wait_for(address, 90)) as client:
            assert "stacked" in {space.name for space in client.spaces()}
            blob = client.upload_table(table, "devices.csv").blob
            client.add_device(
                DeviceSpec(name="new", source="table", table=TableSpec(blob=blob), space=SpaceSpec(name="stacked"))
            )
            for _ in client.watch_device("new"):
                pass
            view = client.device("new")
            assert view.status == "succeeded", view.error
            [card] = view.predictors
            assert (card.family, card.n) == ("transfer", SAMPLES)
    finally:
        child.terminate()
        child.wait(timeout=40)
    with open_store(f"sqlite:///{home / 'hwnas.db'}", str(home / "blobs")) as store:
        stored_predictor = store.queries.predictor_for("new", card.space)
        assert stored_predictor is not None
        predictor = load_predictor(stored_predictor[0], store.blobs.get(stored_predictor[1]))
    is_unmeasured = np.isnan(new_ms[1])
    guess = predictor.predict(np.eye(OPERATIONS)[genes[is_unmeasured]].reshape(int(is_unmeasured.sum()), -1))
    assert spearman(new_ms[0][is_unmeasured], guess.mean_ms) > 0.9
    assert np.mean(new_ms[0][is_unmeasured] <= guess.upper_ms) > 0.8


def made_up() -> tuple[bytes, np.ndarray, np.ndarray]:
    """The table as CSV; the true latencies of the new device and, below them, those that the table holds; the genes.

    Devices resemble each other: their costs by layer and operation vary in three ways around a common mean, with 1 %
    of noise and a scale of their own.
    """
    rng = np.random.default_rng(0)
    genes = rng.integers(0, OPERATIONS, (NETWORKS, LAYERS))
    mean = rng.gamma(2.0, 0.1, (LAYERS, OPERATIONS))
    ways = 0.3 * mean * rng.standard_normal((3, LAYERS, OPERATIONS))
    costs = mean + np.einsum("dk,klo->dlo", rng.standard_normal((DEVICES + 1, 3)), ways)
    ms = np.abs(costs[:, np.arange(LAYERS), genes].sum(axis=2)) * rng.lognormal(0.0, 0.5, (DEVICES + 1, 1))
    ms *= 1 + 0.01 * rng.standard_normal(ms.shape)
    known_ms = np.full(NETWORKS, np.nan)
    few = rng.choice(NETWORKS, SAMPLES, replace=False)
    known_ms[few] = ms[-1][few]
    lines = [",".join(["arch", *(f"ms.device-{i}" for i in range(DEVICES)), "ms.new"])]
    for n, row in enumerate(genes):
        cells = [f"{v:.5f}" for v in ms[:DEVICES, n]] + ["" if np.isnan(known_ms[n]) else f"{known_ms[n]:.5f}"]
        lines.append(",".join(["-".join(map(str, row)), *cells]))
    return "\n".join(lines).encode(), np.stack([ms[-1], known_ms]), genes

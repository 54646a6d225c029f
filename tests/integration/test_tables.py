"""Devices of which only figures are known: tables that are read and refused, peak figures, and what is made of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from nas.blobs import FolderBlobs
from nas.client import Client
from nas.core import registry
from nas.core.arch import Floats, Genes, as_archs, sample
from nas.core.device import DeviceProfile
from nas.core.errors import InvalidData, InvalidInput, InvalidSpec
from nas.core.events import Event, Measured, SearchState, StageFinished, fold_all
from nas.core.metrics import mape, spearman
from nas.core.ports import ImageShape, predict_latency
from nas.core.predictor_card import PredictorCard
from nas.core.spec import DeviceSpec, RooflineSpec, TableSpec, parse_spec
from nas.schemas.devices import DeviceSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.predictors import PredictorCardSchema
from predictors.onboarding.from_table import onboard_from_table
from predictors.onboarding.measured import onboard
from predictors.onboarding.refit import refitted
from predictors.onboarding.roofline import roofline_ms
from predictors.onboarding.tables import RawTable, check_table, read_table
from predictors.storage import DeviceMeasurements, load_measurements, load_predictor
from server.api.limits import MAX_BODY, MAX_FILE
from server.cli import render
from server.store.store import Store
from tests.support import fakes
from tests.support.tables import Layers, csv_of, table_api, table_plugins, table_store, upload  # noqa: F401  # fixtures

TINY = fakes.TinySpace({}, ImageShape(1, 8, 8, 10))
WIDE = Layers({}, ImageShape(1, 8, 8, 10))


def tiny(*values: object, header: str = "arch,ms") -> bytes:
    """A table of the tiny space, its networks 1-0-0, 1-1-0 and so on."""
    rows = [f"{1 + i // 12}-{1 + i // 4 % 3}-{i % 4},{v}" for i, v in enumerate(values)]
    return "\n".join([header, *rows]).encode()


def checked(data: bytes, **options: Any) -> Any:
    return check_table(read_table(data, "csv"), TINY, **options)


# What is taken


def test_one_table_in_three_formats_and_two_ways_to_name_a_network() -> None:
    genes = np.array([[0, 1, 2], [3, 3, 3], [1, 0, 0]])
    ms = [1.5, 2.5, 0.5]
    texts = ["-".join(map(str, g)) for g in genes]
    columns = {"arch": genes.tolist(), "ms": ms}
    parquet = io.BytesIO()
    pq.write_table(pa.table(columns), parquet)
    choices_by_decision = {d.name: [d.choices[g] for g in genes[:, i]] for i, d in enumerate(TINY.decisions)}
    rows = [dict(zip(("arch", "ms"), row, strict=True)) for row in zip(texts, ms, strict=True)]
    for data, kind in (
        (csv_of([("arch", "ms"), *zip(texts, ms, strict=True)]), "csv"),
        (b"\xef\xbb\xbf" + csv_of([("ms", "arch"), *zip(ms, texts, strict=True)]) + b"\r\n\r\n", "csv"),
        (csv_of([(*choices_by_decision, "ms"), *zip(*choices_by_decision.values(), ms, strict=True)]), "csv"),
        (json.dumps(columns).encode(), "json"),
        (json.dumps(rows).encode(), "json"),
        (json.dumps({**choices_by_decision, "ms": ms}).encode(), "json"),
        (parquet.getvalue(), "parquet"),
    ):
        raw = read_table(data, kind)  # type: ignore[arg-type]
        table = check_table(RawTable.load(raw.dump()), TINY)
        assert np.array_equal(table.genes_NG, genes)
        assert table.latency_ms_DN.tolist() == [ms]


def test_networks_that_ignore_their_input_may_take_next_to_nothing() -> None:
    """As on phones in NAS-Bench-201, whose runtimes compute cells without a path from input to output beforehand."""
    space = registry.load_space("nas_bench_201").build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    rows = ["arch,ms", "4-4-4-4-4-4,25.0", "3-3-3-3-3-3,12.0", "2-2-2-2-2-2,11.0"]
    disconnected = ["0-0-0-0-0-0,0.0035", "4-4-4-0-0-0,0.0033", "0-0-0-0-4-4,0.0034"]
    table = check_table(read_table("\n".join([*rows, *disconnected]).encode(), "csv"), space)
    assert table.latency_ms_DN.min() == 0.0033
    for mistaken, row in (("4-0-0-0-4-0,0.025", 4), ("0-0-0-0-0-0,25000", 4), ("1-1-1-1-1-1,0.011", 4)):
        with pytest.raises(InvalidData, match=rf"1 rows are more than 300 times off.*Rows: {row}$"):
            check_table(read_table("\n".join([*rows, mistaken]).encode(), "csv"), space)


def test_units_other_costs_and_several_devices() -> None:
    assert checked(tiny(1500.0, 2500.0), unit="us").latency_ms_DN.tolist() == [[1.5, 2.5]]
    assert checked(tiny(1500.0, 2500.0), unit="s").latency_ms_DN.tolist() == [[1.5e6, 2.5e6]]
    full = checked(tiny("1.5,3,0.25", header="arch,ms,energy_mj,peak_mb"))
    assert {k: v.tolist() for k, v in full.extras.items()} == {"energy_mj": [3.0], "peak_mb": [0.25]}
    two = checked(tiny("1.5,", "2.5,7", header="arch,ms.a,ms.b c"))
    assert two.devices == ("a", "b c")
    np.testing.assert_array_equal(two.latency_ms_DN, [[1.5, 2.5], [np.nan, 7.0]])


# What is refused, and where


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiny(1, -2, 3), ["row 2", "positive ms", "-2"]),
        (tiny(1, 0), ["row 2", "positive"]),
        (tiny(1, ""), ["row 2: ms is missing"]),
        (tiny(1, "fast"), ["row 2", "expected a number as ms", "'fast'"]),
        (tiny(1, "nan", "inf"), ["row 2", "row 3", "expected a number"]),
        (tiny(*["x"] * 9), ["row 5", "and 4 more"]),
        (tiny(2e5, 3e5, 4e5), ["200000", "microseconds or nanoseconds?", "the unit: s, ms, us, ns"]),
        (tiny(2e-5, 3e-5), ["seconds?"]),
        (tiny(1.0, 1.1, 1200.0, 1.2, 1.3), ["1 rows", "row 3", "another unit"]),
        (tiny(1.0, header="arch,latency"), ["expected a column ms", "got arch, latency"]),
        (tiny("1.0,2", header="arch,ms,watts"), ["unknown column 'watts'", "energy_mj"]),
        (tiny("1.0,-2", header="arch,ms,energy_mj"), ["row 1", "positive energy_mj"]),
        (tiny(1.0, header="arch,arch"), ["distinct column names"]),
        (b"arch,ms\n0-1-2,1.0,3", ["row 1: expected 2 cells"]),
        (b"arch,ms\n0-1-2,1.0\n0-1-2,1.0", ["row 2: the same network as row 1"]),
        (b"arch,ms\n0-0-0,1.0\n0-0-3,1.0", ["row 2: the same network as row 1"]),  # by its inactive gene
        (b"arch,ms\n0-1-4,1.0", ["row 1: unknown architecture: d2 is 4, expected 0 to 3"]),
        (b"arch,ms\n0-1,1.0", ["row 1: expected 3 indices", "got 2"]),
        (b"arch,ms\n-1-0-0,1.0", ["row 1: expected an architecture such as 0-0-0", "'-1-0-0'"]),
        (b"arch,ms\n,1.0", ["row 1: expected an architecture"]),
        (b"d0,d1,ms\n1,2,1.0", ["missing: d2"]),
        (b"d0,d1,d2,ms\n1,2,9,1.0", ["row 1: unknown architecture: d2 is '9', expected one of 1, 2, 3, 4"]),
        (b"arch,ms", ["at least one row"]),
        (b"", ["at least one row"]),
        (b"\xff\xfe", ["not CSV in UTF-8"]),
        (b"arch;ms\n0-1-2;1,5", ["commas between cells", "got ';' in the header 'arch;ms'"]),
        (b'arch,ms\n0-1-2,"1,5"', ["row 1", "got '1,5'; decimals follow a point"]),
    ],
)
def test_a_wrong_table_is_refused_with_its_rows(data: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(data)
    assert all(word in str(refused.value) for word in words), refused.value


CELLS = registry.load_space("nas_bench_201").build({"preset": "digits"}, ImageShape(1, 8, 8, 10))


def test_cells_measured_with_their_inactive_operations_are_learned_from_as_written(tmp_path: Path) -> None:
    """The table of a device that runs every operation, whether or not anything reads its output."""
    rng = np.random.default_rng(0)
    genes = rng.permutation(np.unique(sample(CELLS.decisions, rng, 400), axis=0))
    cost_ms = np.array([0.0, 0.1, 0.4, 0.9, 1.6])
    built, simplified = (1.0 + cost_ms[g].sum(axis=1) for g in (genes, CELLS.canonical(genes)))
    written = check_table(RawTable({"arch": genes.tolist(), "ms": built.tolist()}), CELLS)
    assert written.as_written
    assert (written.genes_NG == genes).all()
    canonical = check_table(RawTable({"arch": genes.tolist(), "ms": simplified.tolist()}), CELLS)
    assert not canonical.as_written
    assert (CELLS.canonical(canonical.genes_NG) == canonical.genes_NG).all()
    assert len(np.unique(canonical.genes_NG, axis=0)) == len(canonical.genes_NG) < len(genes)
    blobs = FolderBlobs(tmp_path)
    raw = RawTable({"arch": genes[:300].tolist(), "ms": built[:300].tolist()})
    spec = DeviceSpec(
        name="d", source="table", predictor="bayesian_linear", table=TableSpec(blob=blobs.put(raw.dump()))
    )
    [*_, fitted] = onboard_from_table(spec, CELLS, blobs, SearchState(), lambda: 0.0)
    assert isinstance(fitted, StageFinished)
    predictor = load_predictor(fitted.result["family"], blobs.get(fitted.result["blob"]))
    stored = load_measurements(blobs.get(fitted.result["measurements_blob"]))
    assert stored.as_written
    assert len(stored.genes_NG) == 300
    chosen = np.unique(CELLS.canonical(genes[300:]), axis=0)  # a search chooses canonical cells
    truth_ms = 1.0 + cost_ms[chosen].sum(axis=1)
    assert mape(truth_ms, predict_latency(predictor, CELLS, chosen).mean_ms) < 2
    later = refitted(predictor, stored, CELLS, chosen[:20], truth_ms[:20])
    assert later.measurements.as_written
    assert mape(truth_ms, predict_latency(later.predictor, CELLS, chosen).mean_ms) < 2


def test_noise_between_equal_cells_does_not_make_them_measured_as_written() -> None:
    """Every cell was simplified before it was measured, and measuring one cell twice gives two latencies."""
    rng = np.random.default_rng(0)
    genes = np.unique(sample(CELLS.decisions, rng, 300), axis=0)
    cost_ms = np.array([0.0, 0.1, 0.4, 0.9, 1.6])
    simplified_ms = 1.0 + cost_ms[CELLS.canonical(genes)].sum(axis=1)
    noisy_ms = simplified_ms * (1 + 0.01 * rng.standard_normal(len(genes)))
    raw = RawTable({"arch": genes.tolist(), "ms": noisy_ms.tolist()})
    table = check_table(raw, CELLS)
    assert not table.as_written
    assert len(np.unique(CELLS.canonical(genes), axis=0)) == len(table.genes_NG) < len(genes)
    twice = [i for i in range(len(genes)) if (CELLS.canonical(genes[i][None]) == table.genes_NG[0]).all()]
    assert table.latency_ms_DN[0, 0] == np.median(noisy_ms[twice])
    assert check_table(raw, CELLS, networks="as_written").as_written  # whoever measured knows


def test_a_table_says_how_its_networks_were_measured(plugins: None) -> None:
    genes = np.unique(sample(CELLS.decisions, np.random.default_rng(0), 60), axis=0)
    raw = RawTable({"arch": genes.tolist(), "ms": (1.0 + genes.sum(axis=1)).tolist()})
    assert not check_table(raw, CELLS, networks="simplified").as_written
    with pytest.raises(InvalidData, match="expected simplified networks, since tiny never builds"):
        check_table(RawTable({"arch": [[0, 1, 2]], "ms": [1.0]}), TINY, networks="as_written")


def test_energies_of_several_devices_have_a_column_each() -> None:
    table = checked(tiny("1.5,2,3,", "2.5,3,4,5", header="arch,ms.a,ms.b,energy_mj.a,energy_mj.b"))
    assert table.energy_of("a").tolist() == [3.0, 4.0]
    np.testing.assert_array_equal(table.energy_of("b"), [np.nan, 5.0])
    with pytest.raises(InvalidInput, match="unknown device of an energy column 'c'"):
        checked(tiny("1.5,2,3", header="arch,ms.a,ms.b,energy_mj.c"))


def test_files_that_are_no_tables_are_refused() -> None:
    for data, kind in (
        (b"[1]", "json"),
        (b'{"arch": 1}', "json"),
        (b'{"arch": [1], "ms": [1, 2]}', "json"),
        (b"[" * 100_000, "json"),
        (b"PAR1....PAR1", "parquet"),
        (b'"a\nb', "csv"),
    ):
        with pytest.raises(InvalidData):
            read_table(data, kind)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match=r"at most 200000 rows, 1000 columns"):
        read_table(csv_of([[f"ms.{i}" for i in range(1001)], [1] * 1001]), "csv")


@given(st.binary(max_size=200) | st.text("arch,ms0123-.\n ", max_size=80).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_a_table_or_refused(data: bytes) -> None:
    for kind in ("csv", "json", "parquet"):
        try:
            table = check_table(read_table(data, kind), TINY)  # type: ignore[arg-type]
        except InvalidInput:
            continue
        assert (table.latency_ms_DN > 0).all()


# What is made of it


def family_of_devices(n_devices: int, n: int, seed: int = 0) -> tuple[Genes, Floats]:
    """Networks of the wide space, and what they take on devices that resemble each other, shape (D, N)."""
    rng = np.random.default_rng(seed)
    genes = np.unique(sample(WIDE.decisions, rng, n), axis=0)
    x = WIDE.features(genes)
    mean = rng.gamma(2.0, 0.1, x.shape[1])
    ways = 0.3 * mean * rng.standard_normal((3, x.shape[1]))
    weights = mean + rng.standard_normal((n_devices, 3)) @ ways
    weights *= rng.lognormal(0, 0.5, (n_devices, 1))
    ms = np.abs(x @ weights.T).T * (1 + 0.01 * rng.standard_normal((n_devices, len(genes))))
    return genes, 1.0 + ms


def onboarded(spec: DeviceSpec, space: Any, folder: Path, clock: Any = None) -> tuple[list[Event], SearchState]:
    ticks = count()
    blobs = FolderBlobs(folder)
    events = list(onboard_from_table(spec, space, blobs, SearchState(), lambda: float(next(ticks))))
    return events, fold_all(events)


@pytest.mark.long
def test_ten_samples_of_a_new_device_beside_a_table_of_others(plugins: None, tmp_path: Path) -> None:
    genes, ms = family_of_devices(11, 150)
    few = np.sort(np.random.default_rng(1).choice(len(genes), 10, replace=False))
    unmeasured_rows = np.setdiff1d(np.arange(len(genes)), few)
    covered = []
    for mine in (8, 9, 10):
        cells = [[f"{v:.4f}" for v in row] for row in (*ms[:8], ms[mine])]
        cells[8] = [c if i in few else "" for i, c in enumerate(cells[8])]
        header = ["arch", *(f"ms.d{i}" for i in range(8)), "ms.mine"]
        rows = zip(["-".join(map(str, g)) for g in genes], *cells, strict=True)
        raw = read_table(csv_of([header, *rows]), "csv")
        blob = FolderBlobs(tmp_path).put(raw.dump())
        spec = DeviceSpec(name="mine", source="table", table=TableSpec(blob=blob))
        events, state = onboarded(spec, WIDE, tmp_path)
        assert list(state.finished) == ["profile", "fit"]
        profile = DeviceProfile.from_json(dict(state.finished["profile"]["profile"]))
        assert (profile.source, profile.measurable, profile.canary_ms) == ("table", False, None)
        fit = state.finished["fit"]
        assert (fit["family"], fit["card"]["n"], fit["card"]["held_out"]) == ("transfer", 10, 10)
        predictor = load_predictor("transfer", FolderBlobs(tmp_path).get(fit["blob"]))
        guess = predictor.predict(WIDE.features(genes[unmeasured_rows]))
        assert spearman(ms[mine][unmeasured_rows], guess.mean_ms) > 0.9
        covered.append(np.mean(ms[mine][unmeasured_rows] <= guess.upper_ms))
    assert np.mean(covered) > 0.8  # on average over devices
    assert [type(e) for e in events].count(StageFinished) == 2


@pytest.mark.long
def test_a_table_of_one_device_is_learned_by_the_family_that_was_asked_for(plugins: None, tmp_path: Path) -> None:
    genes, ms = family_of_devices(1, 600)
    rows = [("arch", "ms"), *(("-".join(map(str, g)), v) for g, v in zip(genes, ms[0], strict=True))]
    blob = FolderBlobs(tmp_path).put(read_table(csv_of(rows), "csv").dump())
    spec = DeviceSpec(name="mine", source="table", table=TableSpec(blob=blob))
    fit = onboarded(spec, WIDE, tmp_path)[1].finished["fit"]
    assert fit["family"] == "auto"
    assert fit["card"]["n"] + fit["card"]["held_out"] == len(genes)
    assert fit["card"]["kind"] == "predicted"
    assert fit["card"]["mape"] < 3.0
    assert fit["card"]["protocol"] == {"table": spec.table.model_dump()}  # type: ignore[union-attr]


def test_too_small_a_table_says_what_would_do(plugins: None, tmp_path: Path) -> None:
    genes, ms = family_of_devices(3, 9)
    header = ["arch", "ms.a", "ms.b", "ms.c"]
    rows = [header, *([("-".join(map(str, g))), *row] for g, row in zip(genes, ms.T.tolist(), strict=True))]
    blob = FolderBlobs(tmp_path).put(read_table(csv_of(rows), "csv").dump())
    spec = DeviceSpec(name="mine", source="table", table=TableSpec(blob=blob))
    with pytest.raises(InvalidData, match=r"at least 10 networks of the device; or 4, and another device.*Got 9"):
        onboarded(spec, WIDE, tmp_path)
    with pytest.raises(InvalidData, match="no device 'z': expected one of a, b, c"):
        onboarded(spec.model_copy(update={"table": TableSpec(blob=blob, device="z")}), WIDE, tmp_path)


def test_a_roofline_is_the_longer_of_computing_and_moving() -> None:
    [arch] = as_archs("layers-1", np.zeros((1, 22), dtype=np.int64))
    moved, operations = 4 * (64 + 256 + 10), 2 * 1000
    [slow_memory] = roofline_ms(WIDE, [arch], 1e15, 1e6)
    assert slow_memory == pytest.approx(22 * moved / 1e6 * 1e3)
    [slow_processor] = roofline_ms(WIDE, [arch], 1e6, 1e15)
    assert slow_processor == pytest.approx(22 * operations / 1e6 * 1e3)


@pytest.mark.long
def test_a_virtual_device_is_estimated_and_never_measured(plugins: None, tmp_path: Path) -> None:
    spec = DeviceSpec(
        name="chip", source="roofline", roofline=RooflineSpec(flops_per_s=1e9, bytes_per_s=1e9), samples=120
    )
    state = onboarded(spec, WIDE, tmp_path)[1]
    card = state.finished["fit"]["card"]
    assert (card["kind"], card["protocol"]) == ("estimated", {"roofline": {"flops_per_s": 1e9, "bytes_per_s": 1e9}})
    assert (card["held_out"], card["mape"], card["spearman"], card["coverage"]) == (0, None, None, None)
    assert card["measured_ms"] == []
    assert card["n"] == 120
    profile = DeviceProfile.from_json(dict(state.finished["profile"]["profile"]))
    assert not profile.measurable


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"source": "table"}, "expected table exactly where source is 'table'"),
        ({"source": "worker", "roofline": {"flops_per_s": 1e9, "bytes_per_s": 1e9}}, "expected roofline exactly"),
        ({"source": "roofline", "roofline": {"flops_per_s": 1e9}}, "bytes_per_s"),
        ({"source": "roofline", "roofline": {"flops_per_s": -1, "bytes_per_s": 1e9}}, "flops_per_s"),
        ({"source": "table", "table": {"blob": "../../etc/passwd"}}, "table.blob"),
    ],
)
def test_a_spec_that_gives_the_wrong_figures_is_refused(record: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        parse_spec(DeviceSpec, record)


# Ten measurements beside devices that are known


class WeightsDevice:
    """Measures a device's own weights; counts what it measured."""

    def __init__(self, ms_of: Mapping[bytes, float]) -> None:
        self.ms_of = ms_of
        self.measured: list[bytes] = []

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Any]:
        for model in models:
            self.measured.append(model)
            yield replace(fakes.measurement(self.ms_of[model]), profile=profile.id)


def _known(genes_NG: Genes, latency_ms_N: Floats) -> DeviceMeasurements:
    return DeviceMeasurements(genes_NG, latency_ms_N, np.zeros(len(genes_NG), dtype=bool))


@pytest.mark.long
@pytest.mark.parametrize("predictor", ["transfer", DeviceSpec().predictor])
def test_ten_measurements_of_a_new_device_beside_devices_that_are_known(
    plugins: None, tmp_path: Path, predictor: str
) -> None:
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 0.1, 198)
    weights = mean * np.abs(1.0 + 0.3 * rng.standard_normal((9, 2)) @ rng.standard_normal((2, 198)))
    blobs = FolderBlobs(tmp_path)
    genes = np.unique(sample(WIDE.decisions, rng, 300), axis=0)
    relatives = [blobs.put(_known(genes, 1.0 + WIDE.features(genes) @ w).dump()) for w in weights[:8]]

    class Mine(dict[bytes, float]):
        def __missing__(self, model: bytes) -> float:
            row = np.frombuffer(model, dtype=np.uint8).astype(np.int64)[None]
            return float(1.0 + WIDE.features(row)[0] @ weights[8])

    def add(spec: DeviceSpec, state: SearchState, relatives: Sequence[str]) -> tuple[WeightsDevice, list[Event]]:
        device, ticks = WeightsDevice(Mine()), count()
        events = onboard(
            spec,
            WIDE,
            lambda arch: bytes(arch.genes),
            device,
            lambda *_: fakes.PROFILE,
            blobs,
            state,
            lambda: float(next(ticks)),
            relatives,
        )
        return device, list(events)

    spec = DeviceSpec(name="mine", predictor=predictor, samples=10)
    device, events = add(spec, SearchState(), relatives)
    fit = fold_all(events).finished["fit"]
    assert len(set(device.measured)) == len(device.measured) == 10
    assert (fit["family"], fit["card"]["n"], fit["card"]["held_out"], fit["networks"]) == ("transfer", 10, 10, 10)
    test_genes_NG = sample(WIDE.decisions, rng, 300)
    guess = load_predictor("transfer", blobs.get(fit["blob"])).predict(WIDE.features(test_genes_NG))
    truth = 1.0 + WIDE.features(test_genes_NG) @ weights[8]
    assert spearman(truth, guess.mean_ms) > 0.9
    stored = load_measurements(blobs.get(fit["measurements_blob"]))
    assert np.allclose(stored.latency_ms_N, 1.0 + WIDE.features(stored.genes_NG) @ weights[8])

    # After a restart the same networks are measured, whatever devices have become known meanwhile.
    profiled_state = fold_all(events[:3])
    again, _ = add(spec, profiled_state, relatives[:5])
    assert again.measured == device.measured
    with pytest.raises(InvalidInput, match="expected known devices with more than 10 networks"):
        add(spec, SearchState(), ())


@pytest.mark.long
def test_which_devices_are_relatives_of_another(api: TestClient, store: Store) -> None:
    rng = np.random.default_rng(0)
    genes = np.unique(TINY.canonical(sample(TINY.decisions, rng, 200)), axis=0)
    spec = fakes.device_spec(name="new", predictor="transfer", samples=10)
    unasked = fakes.device_spec(name="newer", predictor="auto", samples=10)
    for refused_spec, words in (
        (spec, "predictor: 'transfer' expects another device for this space and data with more than 10 networks"),
        (unasked, "at least 32, got 10; fewer are enough with another device"),
    ):
        answer = api.post("/v1/devices", json=refused_spec.model_dump(mode="json"))
        assert answer.status_code == 422
        assert words in answer.json()["message"]
        assert "there are: none" in answer.json()["message"]
        assert "Either measure at least 32 networks with the predictor 'auto', or add" in answer.json()["message"]
    for i in range(3):
        rows = [("arch", "ms"), *(("-".join(map(str, g)), 1.0 + (i + 1) * g.sum()) for g in genes)]
        table = {"blob": upload(api, csv_of(rows)).json()["blob"]}
        relative_spec = fakes.device_spec(name=f"d{i}", source="table", table=table, predictor="bayesian_linear")
        assert api.post("/v1/devices", json=relative_spec.model_dump(mode="json")).status_code == 201
        lease = store.jobs.claim("worker", 10.0)
        assert lease is not None
        fakes.append(
            store, lease, list(onboard_from_table(relative_spec, TINY, store.blobs, SearchState(), fakes.Clock()))
        )
        store.jobs.finish(lease, "succeeded")
    other_data = fakes.device_spec(name="new", predictor="transfer", samples=10, data={"name": "blank", "seed": 1})
    assert api.post("/v1/devices", json=other_data.model_dump(mode="json")).status_code == 422
    assert api.post("/v1/devices", json=spec.model_dump(mode="json")).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    store.collect(grace_s=-1e12)
    known_of = [load_measurements(store.blobs.get(blob)).latency_ms_N for blob in lease.payload.relative_blobs]
    assert [len(ms) for ms in known_of] == [len(genes)] * 3
    assert api.post("/v1/devices", json=unasked.model_dump(mode="json")).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    assert len(lease.payload.relative_blobs) == 3
    enough = fakes.device_spec(name="newest", predictor="auto", samples=32)
    assert api.post("/v1/devices", json=enough.model_dump(mode="json")).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    assert lease.payload.relative_blobs == ()


# Over REST


def test_a_table_goes_from_upload_to_device(api: TestClient, store: Store) -> None:
    genes = np.unique(TINY.canonical(sample(TINY.decisions, np.random.default_rng(0), 200)), axis=0)
    rows = [("arch", "ms"), *(("-".join(map(str, g)), 1.0 + g.sum()) for g in genes)]
    answer = upload(api, csv_of(rows))
    assert answer.status_code == 201
    assert answer.json() | {"blob": ""} == {"blob": "", "rows": len(genes), "devices": []}
    table = {"blob": answer.json()["blob"]}
    changes = {"name": "phone", "source": "table", "table": table, "predictor": "bayesian_linear"}
    response = api.post("/v1/devices", json=fakes.device_spec(**changes).model_dump(mode="json"))
    assert response.status_code == 201
    view = DeviceSchema.model_validate(response.json())
    assert [s.name for s in view.stages] == ["profile", "fit"]
    store.collect(grace_s=-1e12)  # what a device names is not collected
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    events = list(onboard_from_table(lease.payload.spec, TINY, store.blobs, SearchState(), fakes.Clock()))
    fakes.append(store, lease, events)
    store.jobs.finish(lease, "succeeded")
    view = DeviceSchema.model_validate(api.get("/v1/devices/phone").json())
    assert [c.family for c in view.predictors] == ["bayesian_linear"]
    assert api.post("/v1/searches?dry_run=true&measure=false", json=_search("phone")).json()["feasible"]


def test_nothing_is_called_measured_or_verified_on_a_virtual_device(
    api: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.TinySpace, "layers", Layers.layers)
    changes = {"name": "chip", "source": "roofline", "roofline": {"flops_per_s": 1e9, "bytes_per_s": 1e9}}
    spec = fakes.device_spec(**changes, predictor="bayesian_linear", samples=40)
    assert api.post("/v1/devices", json=spec.model_dump(mode="json")).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    events = list(onboard_from_table(spec, TINY, store.blobs, SearchState(), fakes.Clock()))
    fakes.append(store, lease, events)
    store.jobs.finish(lease, "succeeded")
    [card] = api.get("/v1/devices/chip").json()["predictors"]
    assert (card["kind"], card["source"], card["held_out"], card["mape"]) == ("estimated", "roofline", 0, None)
    shown = "".join(_lines(render.card(PredictorCardSchema.model_validate(card))))
    assert "Nothing was measured" in shown
    assert "measured networks" not in shown
    dry_run = api.post("/v1/searches?dry_run=true&measure=false", json=_search("chip")).json()
    assert dry_run["kinds"]["predicted_ms"] == "estimated"
    assert "Predicted latency, ms (estimated)" in "".join(_lines(render.dry_run(DryRunSchema.model_validate(dry_run))))
    search = fakes.add_search(store, fakes.search_spec(device="chip"))
    log = [e for e in fakes.search_log(store.blobs.put(b"abc")) if not isinstance(e, Measured | StageFinished)]
    fakes.run_log(store, [*log, StageFinished("estimate", 1.0, {"reference": fakes.REFERENCE}), _VERIFIED])
    front = api.get(f"/v1/searches/{search}/front").json()
    assert front["final"]
    assert [(o["metric"], o["kind"]) for o in front["objectives"]][1] == ("predicted_ms", "estimated")
    points = api.get(f"/v1/searches/{search}/candidates").json()["items"]
    assert front["members"]
    for point in [*front["members"], *points]:
        assert point["status"] == "unverified"
        assert "measured_ms" not in point["metrics"]
        assert {point["metrics"][m]["kind"] for m in ("predicted_ms", "upper_ms")} == {"estimated"}
        one = api.get(f"/v1/searches/{search}/candidates/{point['arch']}?origin={point['origin']}").json()["candidate"]
        assert one["metrics"]["predicted_ms"]["kind"] == "estimated"
    plain = api.get(f"/v1/searches/{search}/front?device=bench").json()
    assert plain["objectives"][1]["kind"] == "predicted"


def test_cards_that_compared_estimates_with_their_formula_lose_their_figures() -> None:
    """As version 0.2 stored them."""
    figures = {
        "mape": 0.0,
        "spearman": 1.0,
        "kendall": 1.0,
        "coverage": 1.0,
        "measured_ms": [1.0],
        "predicted_ms": [1.0],
    }
    names = {
        "profile": "p",
        "space": "s",
        "space_name": "s",
        "family": "auto",
        "n": 54,
        "calibration": 54,
        "held_out": 18,
    }
    source = {"roofline": {"flops_per_s": 1e9, "bytes_per_s": 1e9}}
    record = {**names, **figures, "upper_ms": [1.0], "range_ms": [1.0, 2.0], "kind": "estimated", "protocol": source}
    card = PredictorCard.from_json(record)
    assert (card.mape, card.coverage, card.held_out, card.measured_ms) == (None, None, 0, ())
    assert (card.n, card.range_ms, card.source) == (54, (1.0, 2.0), "roofline")
    measured = PredictorCard.from_json(
        {**record, "kind": "predicted", "protocol": {"id": "x", "version": 2, "rounds": 9}}
    )
    assert (measured.mape, measured.held_out, measured.source) == (0.0, 18, "worker")
    assert measured.protocol == {"id": "x", "version": 2, "rounds": 9}


def _lines(renderable: RenderableType) -> list[str]:
    console = Console(width=300, file=io.StringIO())
    return [segment.text for segment in console.render(renderable)]


_VERIFIED = StageFinished("verify", 1.0, {"measured": False})


def _search(device: str) -> dict[str, Any]:
    return fakes.search_spec(device=device).model_dump(mode="json")


def test_what_is_wrong_with_a_table_is_said_before_anything_is_queued(api: TestClient, store: Store) -> None:
    blob = upload(api, tiny(1.0, -2.0)).json()["blob"]
    for sha256, word in (
        (blob, "row 2: expected a positive ms"),
        ("0" * 64, "no table 000000000000... was uploaded"),
        (store.blobs.put(b'{"columns": 3}'), "no table"),
        (store.blobs.put(b"\x00"), "no table"),
    ):
        spec = fakes.device_spec(name="phone", source="table", table={"blob": sha256})
        answer = api.post("/v1/devices", json=spec.model_dump(mode="json"))
        assert answer.status_code == 422
        assert word in answer.json()["message"]
    spec = fakes.device_spec(source="roofline", roofline={"flops_per_s": 1e9, "bytes_per_s": 1e9})
    answer = api.post("/v1/devices", json=spec.model_dump(mode="json"))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [d.name for d in store.queries.devices()] == ["bench"]


def test_uploads_have_limits_of_their_own(api: TestClient) -> None:
    many = tiny(*range(1, 49))
    assert upload(api, many + b"\n" * MAX_BODY).status_code == 201
    assert upload(api, b"x" * (MAX_FILE + 1)).status_code == 413
    assert upload(api, many, "text/plain").status_code == 422
    assert upload(api, b"[" * 1000 + b"]" * 1000, "application/json").status_code == 422
    assert upload(api, b"\xff\x00", "application/vnd.apache.parquet").json()["code"] == "invalid_data"


def test_the_client_uploads_files_by_their_kind() -> None:
    sent_requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent_requests.append(request)
        return httpx.Response(201, json={"blob": "0" * 64, "rows": 1, "devices": []})

    with Client(transport=httpx.MockTransport(handle)) as nas:
        assert nas.upload_table(b"PAR1", "t.Parquet").rows == 1
        assert (sent_requests[0].headers["content-type"], sent_requests[0].content) == (
            "application/vnd.apache.parquet",
            b"PAR1",
        )
        with pytest.raises(InvalidInput, match=r"\.csv, \.json, \.parquet"):
            nas.upload_table(b"", "t.xlsx")

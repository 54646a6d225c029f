"""Runtimes: what runs where, programs that measure, and what is said of memory and energy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol, OnDevice, over_fleet, verification_status
from nas.core.errors import MeasurementRefused, UnknownName
from nas.core.gpu_clocks import GpuClocks
from nas.core.json_types import JsonObject
from nas.core.placement import LayerTime, Placement, placement_of
from nas.core.runtimes import (
    Execution,
    LoadedModel,
    ProgramRuntime,
    Runtime,
    RuntimeTarget,
    load_runtime,
    runtime_names,
)
from nas.core.timing import Timing
from nas.export import converted_for_timing, to_float16
from predictors.measurement.energy import clock_reader, find_meter, nvml_meter, rapl_meter
from predictors.measurement.inspection import Inspection, clocks_under_load, inspect_in_fork, metered_mj
from predictors.measurement.isolated import time_isolated
from predictors.measurement.judging import judge
from predictors.measurement.machine import describe_machine, machine_stopwatch, reference_models
from predictors.measurement.onnx_macs import count_macs
from predictors.measurement.programs import profile_by_program, time_by_program
from predictors.runtimes import command, litert, onnx_runtime, openvino, torch_cuda
from predictors.runtimes.command import COMMAND

AZURE = RuntimeTarget("onnxruntime", "AzureExecutionProvider")  # of every onnxruntime; it runs no usual operator
SMALL, _, LARGE = reference_models()


@pytest.mark.parametrize("name", runtime_names())
def test_every_registered_runtime_says_what_it_needs(name: str) -> None:
    runtime = load_runtime(name)
    assert (runtime.name, bool(runtime.summary), bool(runtime.requirement)) == (name, True, True)


def test_an_unknown_runtime_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        load_runtime("openvine")


def test_a_profile_names_runtime_and_provider_as_profiles_always_did() -> None:
    target = RuntimeTarget.parse("onnxruntime CPUExecutionProvider")
    assert target == RuntimeTarget("onnxruntime", "CPUExecutionProvider")
    assert str(target) == "onnxruntime CPUExecutionProvider"
    assert RuntimeTarget.parse("litert") == RuntimeTarget("litert", "")


# --- Placement -----------------------------------------------------------------------------------------------------


def test_a_provider_that_refuses_operators_is_reported_and_verifies_nothing() -> None:
    """Planted: onnxruntime's first provider takes no node, so that all of them run on the processor."""
    placement = inspect_in_fork(onnx_runtime.ONNXRUNTIME, SMALL, Execution(AZURE)).placement
    assert placement.provider == "AzureExecutionProvider"
    assert "Conv" in placement.fallback
    assert set(placement.nodes) == {"CPUExecutionProvider"}
    assert placement.share("cpu") == 1.0
    assert "nodes ran outside AzureExecutionProvider: Conv" in placement.sentence
    assert verification_status(measured(placement), 2.0) == "fallback"
    assert verification_status(measured(placement), 0.5) == "violated"
    at_home = inspect_in_fork(onnx_runtime.ONNXRUNTIME, SMALL, Execution()).placement
    assert at_home.complete
    assert verification_status(measured(at_home), 2.0) == "verified"


def measured(placement: Placement | None) -> Measurement:
    return Measurement("p", "d", 1.0, 0.9, 1.1, 10, 0.01, 1.0, placement=placement)


def test_float16_that_the_processor_computes_in_float32_is_named_and_verifies_nothing() -> None:
    """onnxruntime's processor has no float16 convolutions: it converts the weights and computes as before."""
    execution = Execution(precision="float16")
    placement = inspect_in_fork(onnx_runtime.ONNXRUNTIME, to_float16(SMALL), execution).placement
    assert not placement.fallback
    assert "Conv" in placement.in_float32
    assert "Cast" not in placement.in_float32
    assert placement.sentence.startswith("computed in float32 instead of float16: Conv")
    assert verification_status(measured(placement), 2.0) == "fallback"
    assert Placement.from_json(json.loads(json.dumps(asdict(placement)))) == placement
    in_float16 = [node("conv", "Conv", "CUDAExecutionProvider", 9, "float16"), node("c", "Cast", "CUDA", 1, "float")]
    assert onnx_runtime.operators_in_float32(in_float16) == ()


def test_one_node_elsewhere_is_enough_for_a_fallback() -> None:
    layers = onnx_runtime.layer_times(
        [
            node("conv", "Conv", "CUDAExecutionProvider", 900),
            node("resize", "Resize", "CPUExecutionProvider", 100),
            node("conv", "Conv", "CUDAExecutionProvider", 90),
            node("resize", "Resize", "CPUExecutionProvider", 10),
            {"cat": "Session", "name": "model_run", "dur": 5, "args": {}},
        ]
    )
    placement = placement_of("CUDAExecutionProvider", layers)
    assert placement.fallback == ("Resize",)
    assert placement.nodes == {"CUDAExecutionProvider": 1, "CPUExecutionProvider": 1}
    assert placement.share("gpu") == pytest.approx(0.9)  # the first run, which warms up, does not count
    assert placement.sentence == "1 of 2 nodes ran outside CUDAExecutionProvider: Resize"
    assert not placement.meets({"gpu": 1.0})
    assert placement.meets({"gpu": 0.9, "CPUExecutionProvider": 0.1})


def node(name: str, operator: str, provider: str, us: float, read: str = "float") -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "dur": us,
        "args": {"op_name": operator, "provider": provider, "input_type_shape": [{read: [1]}]},
    }


def test_a_fleet_is_verified_only_where_nothing_fell_back() -> None:
    on_processor = Placement("NPU", {"CPU": 3}, {}, ("Resize",))
    parts = [OnDevice(1.0, 2.0, status, 2.0, measured(on_processor)) for status in ("verified", "fallback")]
    assert over_fleet(parts).status == "fallback"
    assert over_fleet([*parts, OnDevice(1.0, 2.0, "violated", 0.5, measured(None))]).status == "violated"


def test_measurements_keep_their_placement_and_older_ones_have_none() -> None:
    measurement = replace(measured(Placement("NPU", {"NPU": 2}, {"NPU": 0.5})), peak_bytes=4096, energy_mj=1.5)
    assert Measurement.from_json(json.loads(json.dumps(measurement.as_json()))) == measurement
    older = {k: v for k, v in measurement.as_json().items() if k not in ("placement", "peak_bytes", "energy_mj")}
    assert Measurement.from_json(older) == measured(None)
    older_timing = {"sittings": [], "cold_load_ms": 1.0, "warm_load_ms": None}
    assert Timing.from_json(older_timing) == Timing((), 1.0, None)


def test_a_model_is_run_with_as_many_images_as_the_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    execution, events = Execution(batch=4), []

    def record(of_profile: list[JsonObject]) -> tuple[LayerTime, ...]:
        events.extend(of_profile)
        return layer_times(of_profile)

    layer_times = onnx_runtime.layer_times
    monkeypatch.setattr(onnx_runtime, "layer_times", record)
    onnx_runtime.load(LARGE, execution).run()
    onnx_runtime.report(LARGE, execution)
    first = next(e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
    assert first["args"]["input_type_shape"][0]["float"][0] == 4


def test_a_provider_that_is_not_installed_is_unknown() -> None:
    with pytest.raises(UnknownName, match=r"CUDAExecutionProvider.*expected one of.*CPUExecutionProvider"):
        onnx_runtime.identify(RuntimeTarget("onnxruntime", "CUDAExecutionProvider"))


def test_a_runtime_whose_report_fails_says_so() -> None:
    def fail(model: bytes, execution: Execution) -> Any:
        raise RuntimeError("no profiler")

    broken = replace(onnx_runtime.ONNXRUNTIME, report=fail)
    with pytest.raises(MeasurementRefused, match="cannot report where the model ran: no profiler"):
        inspect_in_fork(broken, SMALL, Execution())


def test_measured_memory_grows_with_the_model() -> None:
    onnx_runtime.identify(RuntimeTarget())
    small, large = (inspect_in_fork(onnx_runtime.ONNXRUNTIME, model, Execution(batch=64)) for model in (SMALL, LARGE))
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert large.peak_bytes > small.peak_bytes > 0


def test_memory_is_read_once_the_runtime_has_taken_all_of_it() -> None:
    """As onnxruntime does, which plans its memory in the first run and takes it in the second."""
    blocks: list[bytes] = []

    def load(model: bytes, execution: Execution) -> LoadedModel:
        sizes = iter([0, 64 * 2**20])
        return LoadedModel(lambda: blocks.append(b"x" * next(sizes, 0)))

    double = replace(onnx_runtime.ONNXRUNTIME, load=load)
    peak_bytes = inspect_in_fork(double, SMALL, Execution()).peak_bytes
    assert peak_bytes is not None
    assert peak_bytes >= 64 * 2**20


# --- Asynchronous runtimes, by doubles -----------------------------------------------------------------------------


def test_a_clock_waits_for_an_asynchronous_device_before_it_is_read() -> None:
    calls: list[str] = []
    watch = machine_stopwatch(1, lambda: calls.append("synchronise"))
    watch.now_ns()
    assert calls == ["synchronise"]
    assert watch.cpu_ns is None  # the calling thread does not do the work


def test_torch_replays_one_graph_and_synchronises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A double stands for CUDA: the network runs on the processor, and the graph counts its replays."""
    calls: list[str] = []

    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    @contextmanager
    def capturing(graph: Graph, stream: object) -> Any:
        calls.append("capture")
        yield

    @contextmanager
    def on_stream(stream: object) -> Any:
        yield

    cuda = SimpleNamespace(
        Stream=lambda device: device,
        stream=on_stream,
        synchronize=lambda *_: calls.append("synchronise"),
        CUDAGraph=Graph,
        graph=capturing,
        is_available=lambda: True,
        get_device_name=lambda _: "Double",
    )
    double = SimpleNamespace(
        cuda=cuda,
        inference_mode=torch.inference_mode,
        Generator=torch.Generator,
        rand=torch.rand,
        __version__="2",
        version=SimpleNamespace(cuda="13"),
    )
    monkeypatch.setattr(torch_cuda, "_package", lambda: double)
    identity = torch_cuda.identify(RuntimeTarget("torch"))
    assert (str(identity.target), identity.driver) == ("torch cuda:0", "Double, CUDA 13")
    loaded = torch_cuda.load(SMALL, Execution(RuntimeTarget("torch", "cpu"), batch=2))
    loaded.run()
    loaded.synchronise()
    assert calls == ["synchronise", "capture", "replay", "synchronise"]


def test_torch_without_a_gpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MeasurementRefused, match="expected a CUDA device"):
        torch_cuda.identify(RuntimeTarget("torch"))


# --- OpenVINO and LiteRT, where they are installed -----------------------------------------------------------------


def test_openvino_runs_a_model_and_reports_its_nodes() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'hwnas[openvino]'")
    target = openvino.identify(RuntimeTarget("openvino")).target
    assert str(target) == "openvino CPU"
    openvino.load(SMALL, Execution(target, batch=2)).run()
    report = openvino.report(SMALL, Execution(target))
    assert report.placement.complete
    assert report.placement.nodes["CPU"] > 0
    assert sum(layer.ms for layer in report.layers) > 0
    with pytest.raises(UnknownName, match="device of OpenVINO 'NPU'"):
        openvino.identify(RuntimeTarget("openvino", "NPU"))


def test_litert_runs_a_flatbuffer_and_refuses_anything_else() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'hwnas[litert]'")
    execution = Execution(litert.identify(RuntimeTarget("litert")).target, batch=4)
    flatbuffer = relu_flatbuffer()
    assert litert.prepare(flatbuffer, execution) == flatbuffer
    inspection = inspect_in_fork(litert.LITERT, flatbuffer, execution)
    assert inspection.placement == Placement("CPU", {"CPU": 1})
    with pytest.raises(MeasurementRefused, match="expected a LiteRT flatbuffer"):
        litert.load(SMALL, execution)
    with pytest.raises(MeasurementRefused, match="cannot load the delegate 'libedgetpu"):
        litert.identify(RuntimeTarget("litert", "libedgetpu.so.1"))


def relu_flatbuffer() -> bytes:
    """A model of one ReLU on images of any number, as LiteRT's schema has it."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def tensor(name: str, buffer: int) -> Any:
        described = schema.TensorT()
        described.shape, described.shapeSignature = [1, 8, 8, 3], [-1, 8, 8, 3]
        described.name, described.buffer = name, buffer
        described.type = schema.TensorType.FLOAT32
        return described

    model, graph, operator, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    operator.inputs, operator.outputs, operator.opcodeIndex = [0], [1], 0
    graph.tensors, graph.operators = [tensor("image", 1), tensor("out", 2)], [operator]
    graph.inputs, graph.outputs = [0], [1]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT() for _ in range(3)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_what_a_delegate_leaves_to_the_processor_fell_back() -> None:
    delegated = litert.placement(["CONV_2D", "SOFTMAX", "DELEGATE"], "libedgetpu.so.1")
    assert delegated.complete
    part = litert.placement(["CONV_2D", "DELEGATE", "RESIZE_BILINEAR"], "libedgetpu.so.1")
    assert part.fallback == ("CONV_2D", "RESIZE_BILINEAR")
    assert litert.placement(["CONV_2D", "DELEGATE"], "CPU").nodes == {"CPU": 1}


# --- Programs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Execution]:
    """Makes an execution by a shell script."""

    def make(script: str, **changes: Any) -> Execution:
        path = tmp_path / "measure.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return Execution(RuntimeTarget("command"), program=(str(path),), **changes)

    return make


def answer(**record: Any) -> str:
    return f"sleep 0.05; echo measuring \"$1\"; echo '{json.dumps(record)}'"


def test_a_program_measures_and_tells_memory_energy_and_placement(program: Callable[..., Execution]) -> None:
    placement = {"provider": "DLA", "nodes": {"DLA": 12, "GPU": 1}, "fallback": ["Resize"]}
    record = {"samples_ms": [1.25, 1.26, 1.24], "peak_bytes": 4096, "energy_mj": 3.5, "placement": placement}
    execution = program(answer(**record))
    profile = replace(profile_of(execution), canary_ms=1.0)
    measurement = judge(time_by_program(COMMAND, SMALL, profile, execution), profile)
    assert measurement.median_ms == pytest.approx(1.25, rel=0.02)
    assert (measurement.peak_bytes, measurement.energy_mj) == (4096, 3.5)
    assert measurement.placement == Placement("DLA", {"DLA": 12, "GPU": 1}, {}, ("Resize",))
    assert verification_status(measurement, 2.0) == "fallback"


def profile_of(execution: Execution) -> DeviceProfile:
    return describe_machine("board", MeasurementProtocol(), "agent", execution)


def test_a_program_that_prints_a_median_is_run_until_its_spread_is_known(
    program: Callable[..., Execution], tmp_path: Path
) -> None:
    execution = program(f"echo run >> {tmp_path}/runs; {answer(median_ms=2.0)}")
    profile = replace(profile_of(execution), canary_ms=1.0)
    measurement = judge(time_by_program(COMMAND, SMALL, profile, execution), profile)
    assert measurement.median_ms == pytest.approx(2.0)
    assert len((tmp_path / "runs").read_text().split()) == 3 * profile.protocol.sittings


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sleep 60", "did not end within 0.3 s and was killed"),
        ("sleep 60 & wait", "did not end within 0.3 s and was killed"),
        ("echo hello", "expected the program to print a JSON object.*got 'hello'"),
        ("true", "expected the program to print a JSON object.*got ''"),
        ("echo '[1, 2]'", "expected the program to print a JSON object"),
        ("echo 'no board on /dev/ttyUSB0' >&2; exit 3", "ended with 3: no board on /dev/ttyUSB0"),
        ("kill -9 $$", "was killed by signal 9"),
        (answer(samples_us=[3.0]), "printed 'samples_us': expected samples_ms"),
        (answer(samples_ms=[1.0], median_ms=1.0), "either samples_ms or median_ms"),
        (answer(samples_ms=[]), "expected a list of 1 to"),
        (answer(samples_ms=[1.0, -1.0]), "expected a positive number, got '-1.0'"),
        (answer(samples_ms=[True]), "expected a positive number"),
        ("sleep 0.05; echo '{\"median_ms\": NaN}'", "expected a positive number, got 'nan'"),
        (answer(median_ms=1.0, energy_mj="3 mJ"), "energy_mj: expected a positive number"),
        (answer(median_ms=1.0, placement={"nodes": 3}), "placement: expected"),
        (answer(median_ms=1.0, placement={"provider": "DLA", "nodes": {"GPU": 1}}), "expected their operators"),
        (answer(samples_ms=[1250.0] * 10), "are these microseconds"),
        (answer(samples_ms=[0.00125] * 10), "are these seconds"),
        ("head -c 2000000 /dev/zero; echo", "expected at most 1,048,576 bytes"),
    ],
)
def test_what_a_program_gets_wrong_is_refused(program: Callable[..., Execution], script: str, reason: str) -> None:
    execution = program(script, limit_s=0.3, peak_macs_per_s=1e9)
    with pytest.raises(MeasurementRefused, match=f"(?s){reason}"):
        command.time_program(LARGE, execution)


def test_a_program_that_ignores_its_model_is_no_device(program: Callable[..., Execution]) -> None:
    execution = program(answer(samples_ms=[1.0, 1.0, 1.0]))
    with pytest.raises(MeasurementRefused, match="to measure the model that it is given"):
        profile_by_program(COMMAND, profile_of(execution), execution)


def test_a_program_that_changes_is_another_device(program: Callable[..., Execution]) -> None:
    script = 'sleep 0.05; size=$(stat -c %s "$1"); echo "{\\"median_ms\\": $((size / 10000 + 1)).5}"'
    execution = program(script)
    profile = profile_by_program(COMMAND, profile_of(execution), execution)
    assert str(profile.target) == "command measure.sh"
    [timing] = time_isolated([SMALL], profile, execution=execution)
    assert judge(timing, profile).median_ms is not None
    changed = program(script + "  # changed")
    with pytest.raises(MeasurementRefused, match="expected runtime_version 'sha256"):
        time_isolated([SMALL], profile, execution=changed)


def test_a_device_by_a_program_cannot_be_measured_without_it(program: Callable[..., Execution]) -> None:
    profile = profile_of(program(answer(median_ms=1.0)))
    with pytest.raises(MeasurementRefused, match="only the machine of its agent has"):
        time_isolated([SMALL], profile)


def test_multiplications_are_counted_in_quantised_models_too() -> None:
    assert count_macs(converted_for_timing(SMALL, "int8", (3, 12, 12))) == count_macs(SMALL) > 10_000


def test_programs_are_of_another_kind_than_runtimes_that_are_timed() -> None:
    assert isinstance(load_runtime("command"), ProgramRuntime)
    assert isinstance(load_runtime("onnxruntime"), Runtime)


# --- Energy --------------------------------------------------------------------------------------------------------


def test_the_registers_of_a_processor_are_added_up_and_may_wrap_around(tmp_path: Path) -> None:
    for number, name in enumerate(("package-0", "package-1", "psys")):
        folder = tmp_path / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text("900000\n")
        (folder / "max_energy_range_uj").write_text("999999\n")
    meter = rapl_meter(tmp_path)
    assert meter is not None
    assert meter() == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000\n")  # wrapped around: 200 mJ more
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("950000\n")
    assert meter() == pytest.approx(250.0)
    assert find_meter(RuntimeTarget(), tmp_path / "none") is None


def test_an_nvidia_gpu_counts_its_own_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    used_mj = iter([1000, 1400])
    double = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda gpu: gpu,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(used_mj),
    )
    monkeypatch.setitem(sys.modules, "pynvml", double)
    meter = nvml_meter(0)
    assert meter is not None
    assert meter() == 1400.0


def test_the_clocks_of_an_nvidia_gpu_are_read_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    double = SimpleNamespace(
        NVMLError=OSError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda gpu: gpu,
        nvmlDeviceGetClockInfo=lambda handle, clock: 1410 + handle,
        nvmlDeviceGetMaxClockInfo=lambda handle, clock: 1980,
        nvmlDeviceGetTemperature=lambda handle, sensor: 83,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x1 | 0x4 | 0x20,  # idle is no throttling
    )
    monkeypatch.setitem(sys.modules, "pynvml", double)
    read = clock_reader(RuntimeTarget("torch", "cuda:1"))
    assert read is not None
    assert clock_reader(RuntimeTarget()) is None
    done: list[str] = []
    loaded = LoadedModel(lambda: done.append("run"), lambda: done.append("synchronise"))
    clock_s = iter([0.0, 0.1, 0.5])

    def read_once() -> GpuClocks:
        done.append("read")
        return read()

    clocks = clocks_under_load(loaded, read_once, lambda: next(clock_s))
    assert done == ["run", "run", "read", "synchronise"]
    assert clocks == GpuClocks(1411, 1980, 83, ("power cap", "temperature, by software"))
    assert clocks.sentence == "1,411 of 1,980 MHz, 83 °C, throttled: power cap; temperature, by software"
    timing = Timing((), gpu=clocks)
    assert Timing.from_json(json.loads(json.dumps(timing.as_json()))) == timing
    measurement = replace(measured(None), gpu=clocks)
    assert Measurement.from_json(json.loads(json.dumps(measurement.as_json()))) == measurement
    inspection = Inspection(Placement("CPU"), gpu=clocks)
    assert Inspection.from_json(json.loads(json.dumps(asdict(inspection)))) == inspection


def test_a_gpu_that_tells_no_clocks_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(gpu: int) -> None:
        raise OSError("no such GPU")

    double = SimpleNamespace(NVMLError=OSError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=refuse)
    monkeypatch.setitem(sys.modules, "pynvml", double)
    assert clock_reader(RuntimeTarget("onnxruntime", "CUDAExecutionProvider")) is None


def test_energy_is_that_of_one_inference() -> None:
    clock_s, runs = iter([0.0, 0.1, 0.2, 0.3, 0.5]), []
    readings = iter([100.0, 106.0])
    energy_mj = metered_mj(LoadedModel(lambda: runs.append(1)), lambda: next(readings), lambda: next(clock_s))
    assert energy_mj == pytest.approx(6.0 / (len(runs) - 1))


def test_inspections_travel_as_json() -> None:
    inspection = Inspection(Placement("CPU", {"CPU": 1}, {"CPU": 0.5}), (), 100, None)
    assert Inspection.from_json(json.loads(json.dumps(asdict(inspection)))) == inspection

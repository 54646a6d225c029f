"""Files that must be refused, or read without running what they hold."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.models.graph import InvalidModel
from nas.models.reading.child import ReadLimits, check_finite, read_model
from nas.models.reading.exported import read_exported
from tests.support.models import Bessel, Dynamic, conv_bn, save_exported

MAX_BYTES = 1 << 28
WEIGHTS = "data/weights/model_weights_config.json"
PROGRAM = "models/model.json"


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self._marker,))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_exported(conv_bn(3, 8), tmp_path_factory.mktemp("exported") / "model.pt2")


def repack(source: Path, target: Path, change: Callable[[dict[str, bytes]], None], kind: int = 0) -> Path:
    """A copy of an archive with changed members."""
    with zipfile.ZipFile(source) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return target


def edit(members: dict[str, bytes], name: str, change: Callable[[Any], None]) -> None:
    content = json.loads(members[name])
    change(content)
    members[name] = json.dumps(content).encode()


def test_a_pickle_among_sample_inputs_is_never_opened(exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hostile = pickle.dumps(Payload(marker))
    path = repack(exported, tmp_path / "m.pt2", lambda m: m.update({"data/sample_inputs/model.pt": hostile}))
    assert len(read_exported(path, MAX_BYTES).graph.nodes) == 3
    assert not marker.exists()
    pickle.loads(hostile)
    assert marker.exists()  # the payload works


@pytest.mark.parametrize("name", ["data/constants/custom_obj_0", "data/constants/opaque_obj_0"])
def test_custom_objects_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    path = repack(exported, tmp_path / "m.pt2", lambda m: m.update({name: pickle.dumps(Payload(marker))}))
    with pytest.raises(InvalidModel, match=r"expected no custom objects in the archive, got 'data/constants/.*_obj_0'"):
        read_exported(path, MAX_BYTES)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/a.so", "data/extra/x.py", "models/../../etc/passwd"])
def test_members_without_a_place_are_refused(exported: Path, tmp_path: Path, name: str) -> None:
    path = repack(exported, tmp_path / "m.pt2", lambda m: m.update({name: b""}))
    with pytest.raises(InvalidModel, match=f"expected JSON and raw tensors in the archive, got '{name}'"):
        read_exported(path, MAX_BYTES)


def test_pickled_tensors_are_refused(exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    def change(members: dict[str, bytes]) -> None:
        edit(members, WEIGHTS, lambda c: c["config"]["0.weight"].update(use_pickle=True))
        members["data/weights/weight_0"] = pickle.dumps(Payload(marker))

    with pytest.raises(InvalidModel, match=r"expected the raw values of '0\.weight', got a pickle"):
        read_exported(repack(exported, tmp_path / "m.pt2", change), MAX_BYTES)
    assert not marker.exists()


def test_symbolic_expressions_are_not_evaluated(exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    def change(program: Any) -> None:
        for tensor in program["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(marker)!r}).touch()"

    path = repack(exported, tmp_path / "m.pt2", lambda m: edit(m, PROGRAM, change))
    read_exported(path, MAX_BYTES)
    assert not marker.exists()


def test_weights_beyond_what_is_stored_are_refused(exported: Path, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        config["config"]["0.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 1}

    path = repack(exported, tmp_path / "m.pt2", lambda m: edit(m, WEIGHTS, change))
    with pytest.raises(InvalidModel, match=r"0\.weight: expected 217 stored values, got 216"):
        read_exported(path, MAX_BYTES)


def test_shapes_that_do_not_follow_are_refused(exported: Path, tmp_path: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["tensor_values"]["conv2d"]["sizes"][1] = {"as_int": 9}

    path = repack(exported, tmp_path / "m.pt2", lambda m: edit(m, PROGRAM, change))
    with pytest.raises(InvalidModel, match=r"0 \(conv2d\): expected shape \[2, 8, 16, 16\], got \[2, 9, 16, 16\]"):
        read_exported(path, MAX_BYTES)


def test_compressed_members_are_refused(exported: Path, tmp_path: Path) -> None:
    path = repack(exported, tmp_path / "m.pt2", lambda m: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(InvalidModel, match="to be stored as it is, got it compressed"):
        read_exported(path, MAX_BYTES)


def test_a_checkpoint_of_torch_save_is_refused(tmp_path: Path) -> None:
    torch.save(conv_bn(3, 8).state_dict(), tmp_path / "m.pt2")
    with pytest.raises(InvalidModel, match=r"got a pickle of torch\.save: it is not opened"):
        read_exported(tmp_path / "m.pt2", MAX_BYTES)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with pytest.deprecated_call():  # torch warns of TorchScript
        torch.jit.save(torch.jit.trace(conv_bn(3, 8).eval(), torch.zeros(1, 3, 4, 4)), tmp_path / "m.pt2")
    with pytest.raises(InvalidModel, match=r"expected a program of torch\.export, got TorchScript"):
        read_exported(tmp_path / "m.pt2", MAX_BYTES)


@pytest.mark.parametrize("text", [b'{"graph_module', b"[" * 100_000])
def test_what_is_no_json_is_refused(exported: Path, tmp_path: Path, text: bytes) -> None:
    path = repack(exported, tmp_path / "m.pt2", lambda m: m.update({PROGRAM: text}))
    with pytest.raises(InvalidModel, match=r"expected JSON in 'models/model\.json', got something else"):
        read_exported(path, MAX_BYTES)


def test_a_damaged_archive_is_refused(exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    content[content.index(b'"graph_module"') + 3] ^= 1
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(InvalidModel, match="got a damaged archive: Bad CRC-32"):
        read_exported(tmp_path / "m.pt2", MAX_BYTES)


def test_weights_that_are_no_numbers_are_refused(exported: Path) -> None:
    model = read_exported(exported, MAX_BYTES)
    name = model.graph.learned[0].name
    for value in (np.nan, np.inf):
        broken = model.weights[name].copy()
        broken.flat[0] = value
        with pytest.raises(InvalidModel, match=f"{name}: expected finite numbers, got 1 of {broken.size}"):
            check_finite(replace(model, weights={**model.weights, name: broken}))
    check_finite(model)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(InvalidModel, match=r"expected an archive of torch\.export, got a file that is none"):
        read_exported(tmp_path / "m.pt2", MAX_BYTES)


@pytest.mark.parametrize("change", [lambda p: p.pop("graph_module"), lambda p: p["graph_module"].update(graph=7)])
def test_a_program_without_its_parts_is_refused(exported: Path, tmp_path: Path, change: Callable[[Any], None]) -> None:
    path = repack(exported, tmp_path / "m.pt2", lambda m: edit(m, PROGRAM, change))
    with pytest.raises(InvalidModel, match=r"expected the JSON of a program of torch\.export"):
        read_exported(path, MAX_BYTES)


def test_another_version_of_the_format_is_refused(exported: Path, tmp_path: Path) -> None:
    path = repack(
        exported, tmp_path / "m.pt2", lambda m: edit(m, PROGRAM, lambda p: p["schema_version"].update(major=9))
    )
    with pytest.raises(InvalidModel, match="expected version 8 of the format"):
        read_exported(path, MAX_BYTES)


def test_an_operator_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    path = save_exported(Bessel(), tmp_path / "m.pt2")
    with pytest.raises(InvalidModel, match=r"model: aten\.special_bessel_j0\.default cannot be run: it has no form"):
        read_exported(path, MAX_BYTES)


def test_control_flow_on_values_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="data-dependent"):
        save_exported(Dynamic(), tmp_path / "m.pt2")


def test_a_view_changed_in_place_is_refused(tmp_path: Path) -> None:
    class Changed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y[:, :1].relu_()
            return y

    path = save_exported(Changed(), tmp_path / "m.pt2")
    with pytest.raises(InvalidModel, match="got a view that is changed in place"):
        read_exported(path, MAX_BYTES)


def test_the_child_reads_the_same(exported: Path) -> None:
    direct, child = read_exported(exported, MAX_BYTES), read_model(exported)
    assert child.graph == direct.graph
    assert all((child.weights[name] == value).all() for name, value in direct.weights.items())


def test_the_child_refuses_in_one_line(tmp_path: Path) -> None:
    path = save_exported(Bessel(), tmp_path / "m.pt2")
    with pytest.raises(InvalidModel, match=r"^m\.pt2: the model: aten\.special_bessel_j0\.default cannot be run: .*$"):
        read_model(path)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ReadLimits(time_s=0.01), "expected it to be read within 0.01 s"),
        (ReadLimits(file_bytes=10), "expected at most 10 bytes, got"),
        (ReadLimits(memory_bytes=1 << 20), r"expected a file that can be read with 1,048,576 bytes of memory in 120 s"),
    ],
)
def test_the_child_keeps_its_limits(exported: Path, limits: ReadLimits, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        read_model(exported, limits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pt2", "expected a file, got none"),
        ("weights.pth", "a pickled checkpoint runs code when it is opened"),
        ("model.tflite", r"expected a file of the kind \.pt2"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str, message: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidModel, match=message):
        read_model(tmp_path / name)

"""A local Ray is waited for on a machine where its processes start slowly."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray

from nas.core.errors import HwnasError
from workers import ray_cluster
from workers.ray_cluster import unused_processes, wait_for_node


class SlowNode:
    """A node that registers at ``registers_s`` of its own clock."""

    def __init__(self, registers_s: float) -> None:
        self.registers_s = registers_s
        self.now_s = 0.0

    def get_node(self, gcs_address: str, node_id: str) -> str:
        if self.now_s < self.registers_s:
            raise RuntimeError("no such node")
        return f"{node_id} at {gcs_address}"

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_node_that_registers_late_is_waited_for() -> None:
    node = SlowNode(registers_s=100.0)
    wait = wait_for_node(node.get_node, 300.0, lambda: node.now_s, node.sleep)
    assert wait("127.0.0.1:1", "n") == "n at 127.0.0.1:1"
    assert 100.0 <= node.now_s < 101.0


def test_a_node_that_never_registers_is_an_error() -> None:
    node = SlowNode(registers_s=1e9)
    with pytest.raises(RuntimeError, match="no such node"):
        wait_for_node(node.get_node, 300.0, lambda: node.now_s, node.sleep)("127.0.0.1:1", "n")
    assert 300.0 <= node.now_s < 301.0


def test_private_methods_of_the_installed_version_exist() -> None:
    for method in unused_processes(ray.__version__):
        assert callable(getattr(ray._private.node.Node, method))
    assert unused_processes(ray.__version__) == ray_cluster._UNUSED_PROCESSES


@pytest.mark.parametrize("version", ["2.6.0", "2.61.0", "3.0.0.dev0"])
def test_another_version_runs_with_all_its_processes(version: str, caplog: pytest.LogCaptureFixture) -> None:
    assert unused_processes(version) == ()
    assert f"expected Ray 2.60, got {version}" in caplog.text
    assert unused_processes("2.60.1") == ray_cluster._UNUSED_PROCESSES


def test_a_ray_that_cannot_be_kept_to_loopback_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray_cluster.ray_constants, "ENABLE_RAY_CLUSTER")
    with pytest.raises(HwnasError, match=r"cannot be kept to loopback.*Install ray==2\.60\.\*"):
        ray_cluster._start_local(tmp_path, 1)

"""A local Ray is waited for on a machine where its processes start slowly."""

from __future__ import annotations

import pytest

from workers.ray_cluster import wait_for_node


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

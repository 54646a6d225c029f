"""Fair order, resource fit, and descriptions of missing resources."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nas.core.scheduling import NodeResources, QueuedJob, fair_order, fits, missing_resources, smallest_shortage
from nas.core.spec import ResourceSpec

jobs = st.lists(
    st.builds(QueuedJob, st.uuids().map(str), st.sampled_from("abc"), st.integers(-2, 2), st.integers(0, 9).map(float)),
    max_size=30,
    unique_by=lambda job: job.id,
)


def names(order: list[QueuedJob]) -> str:
    return "".join(job.id for job in order)


def test_owners_take_turns() -> None:
    many = [QueuedJob(f"{i}", "eager", 100, float(i)) for i in range(5)]
    one = QueuedJob("x", "late", 0, 99.0)
    assert names(fair_order([*many, one], {})) == "0x1234"
    assert names(fair_order([*many, one], {"eager": 1})) == "x01234"
    assert names(fair_order([*many, one], {"late": 3})) == "0123x4"


def test_priority_then_age_order_jobs_of_one_owner() -> None:
    waiting = [QueuedJob("a", "o", 0, 1.0), QueuedJob("b", "o", 5, 3.0), QueuedJob("c", "o", 5, 2.0)]
    assert names(fair_order(waiting, {})) == "cba"


def test_urgent_jobs_go_first() -> None:
    waiting = [
        QueuedJob("a", "o", 9, 1.0),
        QueuedJob("b", "p", 0, 3.0, urgent=True),
        QueuedJob("c", "o", 0, 2.0, urgent=True),
    ]
    assert names(fair_order(waiting, {"p": 9})) == "cba"


@given(jobs, st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)))
def test_each_step_serves_an_owner_with_fewest_running_jobs(waiting: list[QueuedJob], running: dict[str, int]) -> None:
    order = fair_order(waiting, running)
    assert sorted(job.id for job in order) == sorted(job.id for job in waiting)
    have = Counter(running)
    remaining = Counter(job.owner for job in waiting)
    for job in order:
        assert have[job.owner] == min(have[owner] for owner in remaining if remaining[owner])
        have[job.owner] += 1
        remaining[job.owner] -= 1


def test_fit_and_missing_resources() -> None:
    small, big = NodeResources(2, 0, 8.0), NodeResources(16, 2, 64.0, {"gpu": "a100"})
    required = ResourceSpec(cpus=4, gpus=1, memory_gb=16.0, labels={"gpu": "a100"})
    assert fits(required, big)
    assert missing_resources(required, small) == [
        "4 CPU cores",
        "1 GPU",
        "16 GB of memory",
        "a node with the label gpu=a100",
    ]
    assert not fits(required, NodeResources(16, 2, 64.0, {"gpu": "v100"}))
    assert smallest_shortage(required, [small, NodeResources(16, 0, 64.0, {"gpu": "a100"})]) == "1 GPU"
    assert smallest_shortage(required, [small, big]) == ""

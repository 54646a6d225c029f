"""Fair order, fitting, and the words for what is lacking."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nas.core.ports import Room
from nas.core.queueing import Waiting, fair_order, fits, lacking, nearest_lack
from nas.core.spec import ResourceSpec

jobs = st.lists(
    st.builds(Waiting, st.uuids().map(str), st.sampled_from("abc"), st.integers(-2, 2), st.integers(0, 9).map(float)),
    max_size=30,
    unique_by=lambda job: job.id,
)


def names(order: list[Waiting]) -> str:
    return "".join(job.id for job in order)


def test_owners_take_turns_whatever_they_queued() -> None:
    many = [Waiting(f"{i}", "eager", 100, float(i)) for i in range(5)]
    one = Waiting("x", "late", 0, 99.0)
    assert names(fair_order([*many, one], {})) == "0x1234"
    assert names(fair_order([*many, one], {"eager": 1})) == "x01234"
    assert names(fair_order([*many, one], {"late": 3})) == "0123x4"


def test_priority_counts_inside_an_owner_and_age_after_it() -> None:
    waiting = [Waiting("a", "o", 0, 1.0), Waiting("b", "o", 5, 3.0), Waiting("c", "o", 5, 2.0)]
    assert names(fair_order(waiting, {})) == "cba"


def test_urgent_jobs_go_first() -> None:
    waiting = [
        Waiting("a", "o", 9, 1.0),
        Waiting("b", "p", 0, 3.0, urgent=True),
        Waiting("c", "o", 0, 2.0, urgent=True),
    ]
    assert names(fair_order(waiting, {"p": 9})) == "cba"


@given(jobs, st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)))
def test_everybody_is_served_once_and_nobody_is_overtaken_by_a_busier_owner(
    waiting: list[Waiting], running: dict[str, int]
) -> None:
    order = fair_order(waiting, running)
    assert sorted(job.id for job in order) == sorted(job.id for job in waiting)
    have = Counter(running)
    left = Counter(job.owner for job in waiting)
    for job in order:
        assert have[job.owner] == min(have[owner] for owner in left if left[owner])
        have[job.owner] += 1
        left[job.owner] -= 1


def test_a_job_fits_into_one_node_or_none() -> None:
    small, big = Room(2, 0, 8.0), Room(16, 2, 64.0, {"gpu": "a100"})
    wanted = ResourceSpec(cpus=4, gpus=1, memory_gb=16.0, labels={"gpu": "a100"})
    assert fits(wanted, big)
    assert lacking(wanted, small) == ["4 CPU cores", "1 GPU", "16 GB of memory", "a node with the label gpu=a100"]
    assert not fits(wanted, Room(16, 2, 64.0, {"gpu": "v100"}))
    assert nearest_lack(wanted, [small, Room(16, 0, 64.0, {"gpu": "a100"})]) == "1 GPU"
    assert nearest_lack(wanted, [small, big]) == ""

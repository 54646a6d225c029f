"""Events and their fold: what survives the database is what was yielded, and a cut log goes on to the same state."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.core.arch import Arch
from nas.core.conclusion import Conclusion
from nas.core.data_account import SPLITS, Conversion, DataAccount, SkippedInput, SplitAccount
from nas.core.device import DeviceProfile, MachineNoise, Measurement, verification_status
from nas.core.errors import InvalidInput
from nas.core.events import (
    Candidate,
    Checkpoint,
    ClassRecall,
    Concluded,
    DataRead,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    InputRefused,
    Measured,
    MeasurementsWanted,
    Progress,
    Refitted,
    SearchState,
    StageFinished,
    StageStarted,
    StatusChanged,
    Traced,
    Warned,
    decode,
    encode,
    fold,
    fold_all,
)
from nas.core.lifecycle import STATUSES

ONE = Arch("s-1", (0, 1))


def test_a_prediction_flags_extrapolations_and_other_events_keep_the_flag() -> None:
    state = fold(SearchState(), Evaluated((Candidate(ONE, "search", {"predicted_ms": 1.0}, extrapolated=True),)))
    state = fold(state, Evaluated((Candidate(ONE, "search", {"test_accuracy": 9.0}),)))
    assert state.candidates["search", ONE.id].extrapolated is True
    state = fold(state, Evaluated((Candidate(ONE, "search", {"predicted_ms": 2.0}, extrapolated=False),)))
    assert state.candidates["search", ONE.id].extrapolated is False


def test_event_logs_from_before_domains_say_nothing_of_them() -> None:
    record = encode(Evaluated((Candidate(ONE, "search", extrapolated=True),)))
    del record["candidates"][0]["extrapolated"]
    event = decode(json.loads(json.dumps(record)))
    assert isinstance(event, Evaluated)
    assert event.candidates[0].extrapolated is None


archs = st.builds(Arch, st.sampled_from(["s-1", "s-2"]), st.tuples(st.integers(0, 1), st.integers(0, 1)))
origins = st.sampled_from(["search", "baseline"])
stages = st.sampled_from(["estimate", "train", "explore", "verify"])
numbers = st.floats(0.0, 1e6)
# Names that a fold may merge; a measured latency has no place among them.
metrics = st.dictionaries(st.sampled_from(["params", "val_accuracy", "predicted_ms", "upper_ms"]), numbers)
evaluated = st.builds(Candidate, archs, origins, metrics, extrapolated=st.none() | st.booleans())
texts = st.text(max_size=8)
documents = st.dictionaries(texts, st.none() | st.integers() | texts | st.lists(numbers, max_size=2), max_size=3)
good = st.builds(
    Measurement,
    protocol=st.just("p"),
    profile=st.just("d"),
    median_ms=numbers,
    low_ms=numbers,
    high_ms=numbers,
    runs=st.integers(1, 100),
    variation=numbers,
    drift=numbers,
    samples_ms=st.lists(numbers, max_size=3).map(tuple),
)
PROFILE = DeviceProfile(
    "pi",
    "aarch64",
    "a processor",
    4,
    "onnxruntime",
    "1.0",
    "linux",
    affinity=(0, 2),
    noise=MachineNoise(0.1, (1.0, 2.0), 0.9),
)
refused = good.map(lambda m: replace(m, median_ms=None, low_ms=None, high_ms=None, refused="unsteady"))
counts = st.integers(0, 9)
accounts = st.builds(
    DataAccount,
    content_hash=texts,
    class_names=st.lists(texts, max_size=2).map(tuple),
    inputs=counts,
    splits=st.dictionaries(
        st.sampled_from(SPLITS), st.builds(SplitAccount, counts, st.lists(counts, max_size=2).map(tuple), counts)
    ),
    conversions=st.lists(st.builds(Conversion, texts, counts), max_size=2).map(tuple),
    skipped=st.lists(st.builds(SkippedInput, texts, texts), max_size=2).map(tuple),
    skipped_count=counts,
    unused=st.lists(texts, max_size=2).map(tuple),
    unused_count=counts,
    left_out=counts,
    one_colour=counts,
    contradictory=counts,
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(StageStarted, stages, st.integers(0, 5), st.integers(1, 6)),
    st.builds(Progress, stages, st.integers(0, 9), st.integers(1, 9), texts, st.dictionaries(texts, numbers), texts),
    st.builds(
        Evaluated,
        st.lists(st.builds(Candidate, archs, origins, metrics, extrapolated=st.none() | st.booleans()), max_size=3).map(
            tuple
        ),
    ),
    st.builds(Measured, archs, origins, good | refused, numbers),
    st.builds(
        Traced,
        stages,
        st.integers(0, 9),
        st.dictionaries(texts, numbers),
        st.just(("cell 1", "cell 2")),
        st.just(("none", "skip")),
        st.tuples(*[st.tuples(numbers, numbers)] * 2),
    ),
    st.builds(MeasurementsWanted, stages, st.just(PROFILE), st.dictionaries(texts, texts, max_size=3)),
    st.builds(Checkpoint, stages, st.integers(0, 9), texts),
    st.builds(Exported, archs, st.sampled_from(["a.onnx", "b.json"]), texts, st.integers(0, 9), texts, documents),
    st.builds(HypervolumeAt, st.integers(0, 9), numbers, numbers),
    st.builds(
        Refitted,
        stages,
        st.integers(1, 4),
        st.lists(st.tuples(origins, texts), max_size=3).map(tuple),
        st.integers(0, 9),
        st.integers(0, 3),
        documents,
    ),
    st.builds(Warned, stages, texts),
    st.builds(StatusChanged, st.sampled_from([None, *STATUSES]), st.sampled_from(STATUSES), texts, texts),
    st.builds(StageFinished, stages, st.integers(0, 100).map(float), documents),
    st.builds(DataRead, accounts),
    st.builds(ClassRecall, archs, st.lists(st.none() | numbers, max_size=3).map(tuple)),
    st.builds(Concluded, st.lists(st.builds(Conclusion, st.just("chance_level"), texts), max_size=2).map(tuple)),
    st.builds(InputRefused, texts),
)
logs = st.lists(events, max_size=12)

ARCH = Arch("s-1", (0, 1))
MEASUREMENT = Measurement("p", "d", 2.0, 1.9, 2.1, 90, 0.02, 1.0, samples_ms=(2.0, 1.9, 2.1))


@given(events)
def test_an_event_comes_back_from_json_as_it_was(event: Event) -> None:
    assert decode(json.loads(json.dumps(encode(event)))) == event


def test_every_kind_of_event_is_generated_and_has_its_own_name() -> None:
    kinds = [t.kind for t in get_args(Event)]
    assert len(set(kinds)) == len(kinds) == 17


@given(logs)
def test_a_log_cut_anywhere_goes_on_to_the_same_state(log: list[Event]) -> None:
    state_of_all = fold_all(log)
    stored = [json.dumps(encode(e)) for e in log]
    for cut in range(len(log) + 1):
        resumed = fold_all(decode(json.loads(s)) for s in stored[:cut])
        assert fold_all(log[cut:], resumed) == state_of_all


@given(logs, events)
def test_folding_changes_no_earlier_state(log: list[Event], event: Event) -> None:
    before = fold_all(log)
    fold(before, event)
    assert before == fold_all(log)


@pytest.mark.parametrize(
    "candidate",
    [Candidate(ARCH, "search", {"measured_ms": 1.0}), Candidate(ARCH, "search", measurement=MEASUREMENT)],
    ids=["metric", "measurement"],
)
def test_a_measured_latency_without_its_protocol_is_refused(candidate: Candidate) -> None:
    with pytest.raises(InvalidInput, match="needs its protocol"):
        Evaluated((candidate,))
    stored = {"arch": {"space": "s-1", "genes": [0, 1]}, "origin": "search", "metrics": {"measured_ms": 1.0}}
    with pytest.raises(InvalidInput, match="needs its protocol"):
        decode({"kind": "evaluated", "candidates": [stored]})


def test_decode_reads_candidates_under_their_old_name() -> None:
    event = Evaluated((Candidate(ARCH, "search", {"val_accuracy": 80.0}),))
    record = encode(event)
    old = {"kind": "evaluated", "points": record["candidates"]}
    assert decode(old) == event
    assert old.keys() == {"kind", "points"}


@pytest.mark.parametrize("record", [{"kind": "evaluted", "candidates": []}, {"candidates": []}])
def test_an_unknown_kind_is_named(record: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"unknown event kind .* expected one of stage_started, progress"):
        decode(record)


def test_metrics_of_a_known_point_are_merged_and_origins_stay_apart() -> None:
    state = fold_all(
        [
            Evaluated((Candidate(ARCH, "search", {"val_accuracy": 80.0, "macs": 10.0}),)),
            Evaluated((Candidate(ARCH, "baseline", {"val_accuracy": 81.0}),)),
            Evaluated((Candidate(ARCH, "search", {"val_accuracy": 82.0}),)),
        ]
    )
    assert [p.metrics for p in state.of("search")] == [{"val_accuracy": 82.0, "macs": 10.0}]
    assert [p.metrics for p in state.of("baseline")] == [{"val_accuracy": 81.0}]


@pytest.mark.parametrize(
    ("median_ms", "promised_ms", "status"),
    [
        (2.0, 2.1, "verified"),
        (2.0, 2.09, "unverified"),
        (2.0, 1.99, "unverified"),
        (2.0, 1.89, "violated"),
        (None, 9.0, "unverified"),
    ],
)
def test_the_mark_follows_from_measurement_and_claim(median_ms: float | None, promised_ms: float, status: str) -> None:
    measurement = replace(MEASUREMENT, median_ms=median_ms, high_ms=median_ms and 2.1)
    assert verification_status(measurement, promised_ms) == status
    [point] = fold_all([Measured(ARCH, "search", measurement, promised_ms)]).of("search")
    assert (point.status, point.promised_ms, point.measurement) == (status, promised_ms, measurement)
    assert point.metrics.get("measured_ms") == median_ms


def test_a_refused_measurement_takes_an_earlier_value_back() -> None:
    unsteady = replace(MEASUREMENT, median_ms=None, refused="unsteady")
    state = fold_all([Measured(ARCH, "search", MEASUREMENT, 3.0), Measured(ARCH, "search", unsteady, 3.0)])
    [point] = state.of("search")
    assert "measured_ms" not in point.metrics
    assert point.status == "unverified"


def test_an_estimate_after_measuring_keeps_the_mark() -> None:
    state = fold_all(
        [Measured(ARCH, "search", MEASUREMENT, 3.0), Evaluated((Candidate(ARCH, "search", {"test_accuracy": 90.0}),))]
    )
    [point] = state.of("search")
    assert point.status == "verified"
    assert point.metrics == {"measured_ms": 2.0, "test_accuracy": 90.0}


def test_seconds_add_up_over_attempts_and_the_latest_checkpoint_and_export_count() -> None:
    exported = Exported(ARCH, "model.onnx", "a", 1, "application/octet-stream")
    state = fold_all(
        [
            StageFinished("train", 2.0, {"a": 1}),
            StageFinished("train", 3.0, {"a": 2}),
            Checkpoint("train", 1, "x"),
            Checkpoint("train", 2, "y"),
            exported,
            replace(exported, name="card.md"),
            replace(exported, blob="b"),
            Warned("train", "slow"),
        ]
    )
    assert state.seconds == {"train": 5.0}
    assert state.finished == {"train": {"a": 2}}
    assert state.checkpoints["train"].blob == "y"
    assert [(e.name, e.blob) for e in state.exports] == [("card.md", "a"), ("model.onnx", "b")]
    assert state.warnings == ("slow",)


def test_a_repeated_hypervolume_replaces_what_came_after_it() -> None:
    curve = [HypervolumeAt(10, 0.1, 0.1), HypervolumeAt(20, 0.2, 0.1), HypervolumeAt(10, 0.15, 0.1)]
    assert fold_all(curve).hypervolume == (curve[2],)


def test_progress_is_not_part_of_the_state() -> None:
    assert fold(SearchState(), Progress("train", 1, 2)) == SearchState()


def test_an_event_of_the_wrong_form_is_refused_and_unknown_keys_are_ignored() -> None:
    finished = encode(StageFinished("train", 1.0, {"steps": 3}))
    assert decode({**finished, "of_a_later_version": 1}) == StageFinished("train", 1.0, {"steps": 3})
    with pytest.raises(InvalidInput, match=r"malformed stage_finished event: seconds: .*number"):
        decode({**finished, "seconds": "soon"})
    measured = encode(Measured(ARCH, "search", MEASUREMENT, 3.0))
    with pytest.raises(InvalidInput, match=r"malformed measured event: measurement.profile"):
        decode({**measured, "measurement": {"protocol": "p"}})
    with pytest.raises(InvalidInput, match="unknown event kind 'finish'"):
        decode({**finished, "kind": "finish"})

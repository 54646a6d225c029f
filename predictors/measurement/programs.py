"""Sittings of a program of the user's that measures itself: it has no canary, and all that it prints counts.

A sitting runs the program until there are three values: once where it prints samples, three times where it prints a
median. Whether the device was disturbed meanwhile is for the program to see; the spread between sittings is judged as
that of any device.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nas.core.device import DeviceProfile
from nas.core.errors import MeasurementRefused
from nas.core.placement import Placement
from nas.core.runtimes import Execution, ProgramRuntime, ProgramTimes
from nas.core.timing import Sitting, Timing, Visit
from predictors.measurement.judging import machine_noise, needs_sitting
from predictors.measurement.machine import reference_models

FEWEST_VALUES = 3  # of a sitting, from which its standard error is told
MOST_VALUES = 2_000  # of a sitting that are kept, evenly
PROFILE_SITTINGS = 3
_LEVEL_MS = 1.0  # of the canary that there is not


def time_by_program(runtime: ProgramRuntime, model: bytes, profile: DeviceProfile, execution: Execution) -> Timing:
    """The protocol's sittings of one model, and further ones while its interval is wide. Raises MeasurementRefused as
    the runtime does."""
    answers: list[list[ProgramTimes]] = []
    timing = Timing(())
    while needs_sitting(timing, profile):
        answers.append(sit_by_program(runtime, model, execution))
        timing = Timing(tuple(_sitting(answer) for answer in answers))
    every = [times for answer in answers for times in answer]
    peaks = [times.peak_bytes for times in every if times.peak_bytes is not None]
    energies = [times.energy_mj for times in every if times.energy_mj is not None]
    return replace(
        timing,
        placement=_worst_placement(every),
        peak_bytes=max(peaks, default=None),
        energy_mj=float(np.median(energies)) if energies else None,
    )


def sit_by_program(runtime: ProgramRuntime, model: bytes, execution: Execution) -> list[ProgramTimes]:
    """Answers of the program until they hold enough values."""
    answers: list[ProgramTimes] = []
    while sum(len(times.samples_ms) for times in answers) < FEWEST_VALUES:
        answers.append(runtime.time(model, execution))
    return answers


def profile_by_program(runtime: ProgramRuntime, profile: DeviceProfile, execution: Execution) -> DeviceProfile:
    """The profile with the noise of the program's answers for two reference networks. Raises MeasurementRefused if the
    larger network does not take longer than the smaller, so that the program cannot have measured them."""
    small, _, large = reference_models()
    profile = replace(profile, canary_ms=_LEVEL_MS)
    single_image = replace(execution, batch=1)
    sittings = [
        [_sitting(sit_by_program(runtime, model, single_image)) for _ in range(PROFILE_SITTINGS)]
        for model in (small, large)
    ]
    small_ms, large_ms = (float(np.median([v for s in of_one for v in s.visits[0].network_ms])) for of_one in sittings)
    if large_ms <= small_ms:
        raise MeasurementRefused(
            f"the program says {small_ms:.4g} ms for a small network and {large_ms:.4g} ms for a large one: expected "
            "it to measure the model that it is given"
        )
    return replace(profile, noise=machine_noise(sittings, profile, None))


def _sitting(answers: list[ProgramTimes]) -> Sitting:
    """All values as undisturbed chunks of one visit."""
    values = [ms for times in answers for ms in times.samples_ms]
    count = min(len(values), MOST_VALUES)
    chosen_ms = tuple(values[round(i)] for i in np.linspace(0, len(values) - 1, count))
    visit = Visit(chosen_ms, (_LEVEL_MS,) * count, (), _LEVEL_MS)
    return Sitting((visit,), len(values), canary_quantiles_ms=(_LEVEL_MS,) * 2)


def _worst_placement(every: list[ProgramTimes]) -> Placement | None:
    """That of the answer with the most operators elsewhere."""
    placements = [times.placement for times in every if times.placement is not None]
    return max(placements, key=lambda placement: len(placement.fallback), default=None)

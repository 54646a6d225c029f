"""The time limit of an onboarding: networks that it leaves unmeasured are refused with the reason."""

from __future__ import annotations

from nas.core.device import DeviceProfile, Measurement
from nas.core.spec import DeviceSpec


def out_of_time(spec: DeviceSpec) -> str:
    """Why networks were not measured any more."""
    return f"the time limit of the onboarding, {spec.max_hours or 0.0:g} h, was reached"


def unmeasured(profile: DeviceProfile, reason: str) -> Measurement:
    """The measurement of a network for which there was no time."""
    return Measurement(profile.protocol.id, profile.id, None, None, None, 0, 0.0, 1.0, refused=reason)

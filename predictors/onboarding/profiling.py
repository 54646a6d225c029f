"""The profile of this machine as the spec of a device asks for it, measured here and now."""

from __future__ import annotations

from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.runtimes import Execution
from nas.core.spec import DeviceSpec
from predictors.measurement.isolated import profile_machine


def profile_for(spec: DeviceSpec) -> DeviceProfile:
    """Raises as ``profile_machine``."""
    return profile_machine(spec.name, protocol_of(spec), "worker", Execution(spec.target, spec.threads, spec.batch))


def protocol_of(spec: DeviceSpec) -> MeasurementProtocol:
    """The protocol with the threads, the batch and the precision of a spec."""
    return MeasurementProtocol(threads=spec.threads, batch=spec.batch, precision=spec.precision)

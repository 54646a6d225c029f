"""Measuring on a device with an agent: the agent measures, and the job waits in the queue meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nas.core.device import DeviceProfile, Measurement, NotMeasuredYet, verification_status
from nas.core.errors import MeasurementRefused
from nas.core.jobs import AgentResults, MeasurementFailure, MeasurementKey
from nas.core.ports import BlobStore
from predictors.measurement.judging import AGAIN, combine
from predictors.onboarding.time_limit import unmeasured


class RemoteMeasurer:
    """A ``nas.core.ports.Measurer`` that returns what an agent has measured for this job so far. ``out_of_time``: why
    it will measure no more; None while it may."""

    def __init__(self, results: AgentResults, blobs: BlobStore, out_of_time: str | None = None) -> None:
        self._results = results
        self._blobs = blobs
        self._out_of_time = out_of_time

    def __call__(
        self,
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        """Return results of the agent. A network whose interval contains the promised latency is requested once more,
        and both results are combined. Raises NotMeasuredYet after storing the models without a result, and
        MeasurementRefused if the agent could not measure a model. Out of time, requests nothing: what has no result is
        refused."""
        if self._out_of_time is not None:
            for network in networks:
                has_result = self.has_result(network, profile)
                yield self._result(network, profile) if has_result else unmeasured(profile, self._out_of_time)
            return
        missing = {n: m for n, m in zip(networks, models, strict=True) if not self.has_result(n, profile)}
        if missing:
            raise NotMeasuredYet(profile, {n: self._blobs.put(m) for n, m in missing.items()})
        measured = {n: self._result(n, profile) for n in networks}
        promises = dict(zip(networks, promised_ms or [math.nan] * len(networks), strict=True))
        close = [n for n, m in measured.items() if verification_status(m, promises[n]) == "unverified"]
        close = [n for n in close if measured[n].refused is not None or not math.isnan(promises[n])]
        by_name = dict(zip(networks, models, strict=True))
        missing = {AGAIN.format(n): by_name[n] for n in close if not self.has_result(AGAIN.format(n), profile)}
        if missing:
            raise NotMeasuredYet(profile, {n: self._blobs.put(m) for n, m in missing.items()})
        for network in networks:
            if network in close:
                again = self._result(AGAIN.format(network), profile)
                yield combine([measured[network], again], profile)
            else:
                yield measured[network]

    def _result(self, network: str, profile: DeviceProfile) -> Measurement:
        result = self._results[_key(network, profile)]
        if isinstance(result, MeasurementFailure):
            raise MeasurementRefused(f"device {profile.name!r} could not measure {network}: {result.error}")
        return result

    def has_result(self, network: str, profile: DeviceProfile) -> bool:
        """Whether the network has a result by the profile's protocol, so that its model is not needed."""
        return _key(network, profile) in self._results


def _key(network: str, profile: DeviceProfile) -> MeasurementKey:
    return MeasurementKey(profile.name, network, profile.protocol.id)

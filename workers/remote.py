"""Measuring on a device elsewhere: its agent does it, and the job waits meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nas.core.device import DeviceProfile, Measurement, verification_status
from nas.core.errors import MeasurementRefused, NotMeasuredYet
from nas.core.ports import BlobStore
from predictors.measurement.protocol import AGAIN, combine


class RemoteMeasurer:
    """``nas.core.ports.Measurer`` over what an agent has measured for this job so far, by ``result_key``."""

    def __init__(self, results: Mapping[str, Mapping[str, Any]], blobs: BlobStore) -> None:
        self._results = results
        self._blobs = blobs

    def __call__(
        self,
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        """A network whose interval holds the latency that was promised is asked for once more, and both results count
        together. Raises NotMeasuredYet, once the models that are missing lie in the blob store, and MeasurementRefused
        for a model that the agent could not measure."""
        missing = {n: m for n, m in zip(networks, models, strict=True) if not self.knows(n, profile)}
        if missing:
            raise NotMeasuredYet(profile.as_json(), {n: self._blobs.put(m) for n, m in missing.items()})
        measured = {n: self._result(n, profile) for n in networks}
        promises = dict(zip(networks, promised_ms or [math.nan] * len(networks), strict=True))
        close = [n for n, m in measured.items() if verification_status(m, promises[n]) == "unverified"]
        close = [n for n in close if measured[n].refused is not None or not math.isnan(promises[n])]
        by_name = dict(zip(networks, models, strict=True))
        missing = {AGAIN.format(n): by_name[n] for n in close if not self.knows(AGAIN.format(n), profile)}
        if missing:
            raise NotMeasuredYet(profile.as_json(), {n: self._blobs.put(m) for n, m in missing.items()})
        for network in networks:
            if network in close:
                again = self._result(AGAIN.format(network), profile)
                yield combine([measured[network], again], profile)
            else:
                yield measured[network]

    def _result(self, network: str, profile: DeviceProfile) -> Measurement:
        result = self._results[result_key(network, profile)]
        if "error" in result:
            raise MeasurementRefused(f"device {profile.name!r} could not measure {network}: {result['error']}")
        return Measurement.from_json(dict(result))

    def knows(self, network: str, profile: DeviceProfile) -> bool:
        """Whether the network has a result by the profile's protocol, so that its model is not needed."""
        return result_key(network, profile) in self._results


def result_key(network: str, profile: DeviceProfile) -> str:
    """Under which a measurement comes with a lease, as ``server.store.measurements.results`` gives it."""
    return f"{profile.name}/{network}/{profile.protocol.id}"

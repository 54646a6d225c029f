"""Measuring on a device elsewhere: its agent does it, and the job waits meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import MeasurementRefused, NotMeasuredYet
from nas.core.ports import BlobStore


class RemoteMeasurer:
    """``nas.core.ports.Measurer`` over what an agent has measured for this job so far, by ``result_key``."""

    def __init__(self, results: Mapping[str, Mapping[str, Any]], blobs: BlobStore) -> None:
        self._results = results
        self._blobs = blobs

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str]
    ) -> Iterator[Measurement]:
        """Raises NotMeasuredYet, once the models that are missing lie in the blob store, and MeasurementRefused for a
        model that the agent could not measure."""
        missing = {n: m for n, m in zip(networks, models, strict=True) if not self.knows(n, profile)}
        if missing:
            raise NotMeasuredYet(profile.as_json(), {n: self._blobs.put(m) for n, m in missing.items()})
        for network in networks:
            result = self._results[result_key(network, profile)]
            if "error" in result:
                raise MeasurementRefused(f"device {profile.name!r} could not measure {network}: {result['error']}")
            yield Measurement.from_json(dict(result))

    def knows(self, network: str, profile: DeviceProfile) -> bool:
        """Whether the network has a result by the profile's protocol, so that its model is not needed."""
        return result_key(network, profile) in self._results


def result_key(network: str, profile: DeviceProfile) -> str:
    """Under which a measurement comes with a lease, as ``server.store.measurements.results`` gives it."""
    return f"{profile.name}/{network}/{profile.protocol.id}"

"""The one error tree. Messages say what was expected, what came, and the nearest valid names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class HwnasError(Exception):
    """Base of every error this project raises on purpose. ``code`` is stable and travels over REST."""

    code = "error"


class InvalidInput(HwnasError):
    """A value from outside is not what it should be."""

    code = "invalid_input"


class InvalidSpec(InvalidInput):
    """A specification cannot be run as written."""

    code = "invalid_spec"


class UnknownName(InvalidInput):
    """A name that is not registered."""

    code = "unknown_name"

    def __init__(self, concept: str, name: str, valid_names: Iterable[str]) -> None:
        names = sorted(valid_names)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {concept} {name!r}: expected one of {', '.join(names) or '(none)'}.{hint}")


class InvalidPlugin(HwnasError):
    """An installed package declares an entry point that is no plug-in of its group."""

    code = "invalid_plugin"


class InvalidData(InvalidInput):
    """A data set that cannot be used: corrupt, pickled, an empty class, a wrong shape."""

    code = "invalid_data"


class InfeasibleBound(InvalidSpec):
    """No network of the space can meet the bound. The message names the lowest reachable value."""

    code = "infeasible_bound"


class NotFound(HwnasError):
    """The thing asked for does not exist."""

    code = "not_found"


class Conflict(HwnasError):
    """The request contradicts the present state."""

    code = "conflict"


class AgentBusy(Conflict):
    """Another process of the same name measures as a device's agent."""

    code = "agent_busy"

    def __init__(self, device: str, lease_s: float) -> None:
        super().__init__(
            f"another process measures as the agent of device {device!r}: stop it, or wait until its lease has "
            f"expired, which takes up to {lease_s:g} s"
        )


class MeasurementRefused(HwnasError):
    """A measurement that says nothing, so no number is reported."""

    code = "measurement_refused"


class NotMeasuredYet(HwnasError):
    """Networks have to be measured elsewhere before the job can go on. ``networks`` gives the blob of each by its id,
    ``profile`` the device, as JSON; ``others``: what further devices have to measure meanwhile."""

    code = "not_measured_yet"

    def __init__(
        self, profile: Mapping[str, Any], networks: Mapping[str, str], further_devices: tuple[NotMeasuredYet, ...] = ()
    ) -> None:
        super().__init__(f"device {profile['name']!r} has to measure {len(networks)} networks first")
        self.profile = profile
        self.networks = networks
        self.further_devices = further_devices

    @classmethod
    def on_all(cls, devices: list[NotMeasuredYet]) -> NotMeasuredYet:
        """All of them at once, so that no device waits for another."""
        first, *further_devices = devices
        return cls(first.profile, first.networks, tuple(further_devices))


class ExportMismatch(HwnasError):
    """The exported model and the torch network disagree, so no model is released."""

    code = "export_mismatch"


class Diverged(HwnasError):
    """A training has left the finite numbers."""

    code = "diverged"


class StorageError(HwnasError):
    """Bytes could not be written or read back intact (full disk, torn file)."""

    code = "storage"


class Unauthorised(HwnasError):
    """No token came with the request, or none that is valid."""

    code = "unauthorised"


class Forbidden(HwnasError):
    """The token does not allow this."""

    code = "forbidden"


class QuotaExceeded(HwnasError):
    """The owner's quota is used up. The message names the quota, what it is and what is used."""

    code = "quota_exceeded"

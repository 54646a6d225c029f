"""The one error tree. Messages say what was expected, what came, and the nearest valid names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """A data set that cannot be used: corrupt, pickled, an empty class, a wrong shape. Made of one problem or of many;
    ``problems`` has all, the message the first few."""

    code = "invalid_data"
    _MOST_LISTED = 20

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem, in the order in which they were noticed."""
        return tuple(str(problem) for problem in self.args)

    def __str__(self) -> str:
        if len(self.args) == 1:
            return str(self.args[0])
        more = f"; and {len(self.args) - self._MOST_LISTED} more" if len(self.args) > self._MOST_LISTED else ""
        return f"{len(self.args)} problems with the data: {'; '.join(self.problems[: self._MOST_LISTED])}{more}"


class DataTooLarge(InvalidData):
    """A data set that is valid as far as is known, and does not fit into the memory that may be used."""

    code = "data_too_large"


class DataChanged(InvalidData):
    """The data of a search are not those that it, or the search whose supernet it uses, was trained on."""

    code = "data_changed"


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


class ExportMismatch(HwnasError):
    """The exported model and the torch network disagree, so no model is released."""

    code = "export_mismatch"


class Diverged(HwnasError):
    """A training has left the finite numbers."""

    code = "diverged"


class StorageError(HwnasError):
    """Bytes could not be written or read back intact (full disk, torn file)."""

    code = "storage"


class DamagedBlob(StorageError):
    """The stored bytes of a blob are not those that were stored."""


class StorageBusy(StorageError):
    """The database is there but takes nothing at the moment: it is locked, restarts or has too many connections. The
    same request succeeds later."""

    code = "storage_busy"


class Unauthorised(HwnasError):
    """No token came with the request, or none that is valid."""

    code = "unauthorised"


class Forbidden(HwnasError):
    """The token does not allow this."""

    code = "forbidden"


class QuotaExceeded(HwnasError):
    """The owner's quota is used up. The message names the quota, what it is and what is used."""

    code = "quota_exceeded"


def error_of(code: str, *messages: str) -> HwnasError:
    """The error of a code with complete messages, as another process has raised it; HwnasError for an unknown code."""
    error_class = _classes_by_code(HwnasError).get(code, HwnasError)
    error = error_class.__new__(error_class)  # constructors differ, and these messages are complete
    Exception.__init__(error, *messages)
    error.code = code
    return error


def _classes_by_code(root: type[HwnasError]) -> dict[str, type[HwnasError]]:
    """The class of each code; of a code that classes share, the most general."""
    classes: dict[str, type[HwnasError]] = {}
    for child in root.__subclasses__():
        classes |= _classes_by_code(child)
    return {**classes, root.code: root}

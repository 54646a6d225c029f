"""Which exported files of a search to download, and under which names."""

from __future__ import annotations

from pathlib import PurePosixPath

from nas.client import Client
from nas.core.errors import NotFound, StorageError
from nas.schemas.candidates import ArtifactSchema


def choose_artifacts(nas: Client, search_id: str, selection: str) -> list[ArtifactSchema]:
    """The files of the ``best`` or ``fastest`` front member, of ``all`` candidates, or of one. Raises NotFound."""
    artifacts = nas.artifacts(search_id)
    if not artifacts:
        raise NotFound(f"search {search_id} has exported no models (yet)")
    if selection == "all":
        return artifacts
    arch = _front_member(nas, search_id, selection, artifacts) if selection in ("best", "fastest") else selection
    selected = [a for a in artifacts if a.arch == arch]
    if not selected:
        exported = ", ".join(sorted({a.arch for a in artifacts}))
        raise NotFound(
            f"no exported candidate {arch!r} in search {search_id}: expected one of best, fastest, all, {exported}"
        )
    return selected


def file_name(artifact: ArtifactSchema) -> str:
    """The name of a downloaded file. Raises StorageError for a name that would leave the target folder."""
    if PurePosixPath(artifact.name).name != artifact.name or artifact.name in ("", "..") or "\\" in artifact.name:
        raise StorageError(f"expected a plain file name from the server, got {artifact.name!r}")
    return artifact.name


def _front_member(nas: Client, search_id: str, selection: str, artifacts: list[ArtifactSchema]) -> str:
    exported = {a.arch for a in artifacts}
    members = [p for p in nas.front(search_id).members if p.arch in exported]
    if not members:
        raise NotFound(f"no front member of search {search_id} was exported")
    metric, sign = ("test_accuracy", -1) if selection == "best" else ("measured_ms", 1)
    return min(members, key=lambda p: sign * p.metrics[metric].value).arch

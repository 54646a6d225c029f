"""Which exported files of a search to download, and under which names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from nas.client import Client
from nas.core.errors import NotFound, StorageError
from nas.schemas.candidates import ArtifactSchema
from server.cli.naming import candidate_id


@dataclass(frozen=True)
class Selection:
    """Files to download. ``note`` says where they are not of the network that was meant, empty otherwise."""

    artifacts: list[ArtifactSchema]
    note: str = ""


def choose_artifacts(nas: Client, search_id: str, selection: str) -> Selection:
    """The files of the ``best``, ``fastest`` or ``recommended`` front member, of ``all`` candidates, or of one by its
    id, the beginning of it or its name. Raises NotFound."""
    artifacts = nas.artifacts(search_id)
    if not artifacts:
        raise NotFound(f"search {search_id} has exported no models (yet)")
    if selection == "all":
        return Selection(artifacts)
    exported = sorted({a.arch for a in artifacts})
    if selection == "recommended":
        arch, note = _recommended(nas, search_id), ""
    elif selection in _ENDS:
        arch, note = _front_member(nas, search_id, selection, exported)
    else:
        arch, note = candidate_id(selection, exported), ""
    selected = [a for a in artifacts if a.arch == arch]
    if not selected:
        raise NotFound(
            f"no exported candidate {arch!r} in search {search_id}: expected one of best, fastest, recommended, all, "
            f"{', '.join(exported)}"
        )
    return Selection(selected, note)


def _recommended(nas: Client, search_id: str) -> str:
    answer = nas.recommendation(search_id)
    if answer.candidate is None:
        raise NotFound(answer.reason)
    return answer.candidate.arch


def file_name(artifact: ArtifactSchema) -> str:
    """The name of a downloaded file. Raises StorageError for a name that would leave the target folder."""
    if PurePosixPath(artifact.name).name != artifact.name or artifact.name in ("", "..") or "\\" in artifact.name:
        raise StorageError(f"expected a plain file name from the server, got {artifact.name!r}")
    return artifact.name


def _front_member(nas: Client, search_id: str, selection: str, exported: Collection[str]) -> tuple[str, str]:
    """The exported network at an end of the front, and a note if the front has a better one that was not exported."""
    front = nas.front(search_id)
    objective = front.quality.objective if selection == "best" else "latency"
    axis = next((o for o in front.objectives if o.objective == objective), None)
    if axis is None:
        raise NotFound(f"search {search_id} has no objective {objective}, by which one could be {selection}")
    sign = -1 if axis.goal == "max" else 1
    ordered = sorted(front.members, key=lambda p: sign * p.metrics[axis.metric].value)
    member = next((p for p in ordered if p.arch in exported), None)
    if member is None:
        raise NotFound(f"no front member of search {search_id} was exported")
    if member.arch == ordered[0].arch:
        return member.arch, ""
    end, value = ordered[0], member.metrics[axis.metric].value
    return member.arch, (
        f"{end.arch} is {selection} on the front with {end.metrics[axis.metric].value:.4g} {axis.unit}, and was not "
        f"exported, since export.count limits it; {member.arch} with {value:.4g} {axis.unit} is downloaded"
    )


_ENDS = ("best", "fastest")

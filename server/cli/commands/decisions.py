"""Commands on a finished search: which network to ship, stars and notes, and running it again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.client import Client
from nas.core import registry
from nas.core.errors import NotFound
from nas.core.json_types import JsonObject
from nas.core.model_package import ModelPackage
from nas.core.recommendation import DEFAULT_SLACK, Rule
from nas.core.spec import SearchSpec
from nas.reproduction import Comparison, Verdict, compare_manifests, read_manifest, spec_of
from nas.schemas.marks import MarkBody, MarkSchema
from nas.schemas.recommendations import RecommendationRule, RecommendationSchema
from server.cli import progress, render
from server.cli.device_options import SearchId
from server.cli.following import until_interrupted
from server.cli.lazy import FAILED
from server.cli.naming import candidate_id
from server.cli.options import ServiceOptions, service_command
from server.dashboard import formatting

CandidateOption = Annotated[
    str | None, typer.Argument(help="A candidate by id or name; without one, the search itself.", show_default=False)
]
_COLOURS: dict[Verdict, str] = {"same": "green", "close": "green", "differs": "yellow", "diverged": "red"}


@service_command
def recommend(
    service: ServiceOptions,
    search_id: SearchId,
    rule: Annotated[Rule, typer.Option(help="How to choose.")] = "within",
    within: Annotated[
        float, typer.Option(min=0, help="Points below the best quality that speed may cost.")
    ] = DEFAULT_SLACK,
    max_cost: Annotated[float | None, typer.Option(min=0, help="At most this latency in ms, or other cost.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="At least this quality, such as accuracy in %.")] = None,
    device: Annotated[str | None, typer.Option(help="The front on this device of the fleet.")] = None,
) -> None:
    """Say which network of a search to ship, and why.

    Example: `nas recommend SEARCH --within 1 --max-cost 0.2`
    """
    choice = RecommendationRule(rule=rule, slack=within, cost_at_most=max_cost, quality_at_least=min_quality)
    with service.connect() as nas:
        answer = nas.recommendation(search_id, choice, device)
    render.out(answer, service.json_output, _recommendation)
    if answer.candidate is None:
        raise typer.Exit(FAILED)


def _recommendation(answer: RecommendationSchema) -> RenderableType:
    candidate = answer.candidate
    if candidate is None:
        return escape(answer.reason)
    facts = [f"{formatting.label(n)} {formatting.metric(candidate.metrics, n)}" for n in (answer.quality, answer.cost)]
    return Group(
        f"[bold]{answer.name}[/]  {candidate.arch}  {candidate.status}",
        escape(answer.reason),
        escape("; ".join(facts)),
        *(f"- {escape(line)}" for line in answer.evidence),
        f"Download it: nas pull {answer.search} {candidate.arch}",
    )


@service_command
def star(
    service: ServiceOptions,
    search_id: SearchId,
    candidate: CandidateOption = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the star.")] = False,
) -> None:
    """Star a search or a candidate, or remove its star.

    Example: `nas star SEARCH calm-amber-otter`
    """
    with service.connect() as nas:
        arch = candidate_of(nas, search_id, candidate)
        mark = _mark(nas, search_id, arch).model_copy(update={"starred": not remove})
        render.out(nas.set_mark(search_id, mark, arch), service.json_output, _mark_line)


@service_command
def note(
    service: ServiceOptions,
    search_id: SearchId,
    text: Annotated[str, typer.Argument(help="The note; an empty text removes it.")],
    candidate: Annotated[
        str | None, typer.Option(help="Of this candidate, by id or name; without it, of the search itself.")
    ] = None,
) -> None:
    """Write a note on a search or a candidate.

    Example: `nas note SEARCH "ships on Friday" --candidate calm-amber-otter`
    """
    with service.connect() as nas:
        arch = candidate_of(nas, search_id, candidate)
        mark = _mark(nas, search_id, arch).model_copy(update={"note": text})
        render.out(nas.set_mark(search_id, mark, arch), service.json_output, _mark_line)


def candidate_of(nas: Client, search_id: str, text: str | None) -> str | None:
    """The id of a candidate on the front, or exported, that a text means; another text is an id."""
    if text is None:
        return None
    front = nas.front(search_id)
    arch_ids = [c.arch for c in (*front.members, *front.baseline, *front.references)]
    return candidate_id(text, [*arch_ids, *(a.arch for a in nas.artifacts(search_id))])


def _mark(nas: Client, search_id: str, arch: str | None) -> MarkBody:
    marks = (MarkBody(starred=m.starred, note=m.note) for m in nas.marks(search_id) if m.arch == arch)
    return next(marks, MarkBody())


def _mark_line(mark: MarkSchema) -> str:
    of = f"candidate {mark.arch}" if mark.arch is not None else "the search"
    return escape(f"{'★' if mark.starred else '☆'} {of}{f': {mark.note}' if mark.note else ''}")


@service_command
def reproduce(
    service: ServiceOptions,
    model: Annotated[Path, typer.Argument(help="A downloaded model: the zip file.", metavar="MODEL.ZIP")],
    device: Annotated[str | None, typer.Option(help="Run it for this device in place of the original one.")] = None,
) -> None:
    """Run the search of a downloaded model again, and report what diverged.

    The same spec runs on this service; then the network of the same architecture is compared: versions, data, weights
    and every metric. Measured latencies are close if their intervals overlap. Exit status 1 if anything diverged.

    Example: `nas reproduce 3f2a8d21c0de.zip`
    """
    before = read_manifest(model)
    spec = spec_of(before, model)
    changes: dict[str, str] = {"name": f"{spec.name[:105]}, reproduced", **({"device": device} if device else {})}
    with service.connect() as nas:
        search = nas.submit(SearchSpec.model_validate(spec.model_dump() | changes))
        watch = f"nas watch {search.id}"
        search = until_interrupted(progress.follow_search, nas, search.id, watch)
        if search.status != "succeeded":
            render.out(search, service.json_output, render.search)
            raise typer.Exit(FAILED)
        comparisons = compare_manifests(before, _manifest(nas, search.id, before["architecture"]))
    render.out(comparisons, service.json_output, _comparisons)
    if any(comparison.verdict == "diverged" for comparison in comparisons):
        raise typer.Exit(FAILED)


def _manifest(nas: Client, search_id: str, arch: str) -> JsonObject:
    """The manifest of the network in the new search. Raises NotFound if it is not exported again."""
    artifacts = nas.artifacts(search_id)
    artifact = next((a for a in artifacts if a.arch == arch), None)
    if artifact is None:
        exported = ", ".join(dict.fromkeys(a.arch for a in artifacts)) or "none"
        raise NotFound(
            f"diverged: search {search_id} has ended without exporting the architecture {arch}; it exported {exported}"
        )
    with tempfile.TemporaryDirectory() as folder:
        return read_manifest(nas.download(artifact, Path(folder) / "model.zip"))


def _comparisons(comparisons: list[Comparison]) -> RenderableType:
    table = render.grid("label", "before", "now", "")
    for comparison in comparisons:
        row = (comparison.label, comparison.before, comparison.after)
        table.add_row(*map(escape, row), f"[{_COLOURS[comparison.verdict]}]{comparison.verdict}[/]")
    return table


def export(
    model: Annotated[Path, typer.Argument(help="A downloaded model: the zip file.", metavar="MODEL.ZIP")],
    to: Annotated[str, typer.Option("--to", help="The exporter, such as huggingface or mlflow.")],
    target: Annotated[str, typer.Option(help="Where to: a folder for huggingface, a tracking URI for mlflow.")],
) -> None:
    """Hand a downloaded model to another tool: a folder for Hugging Face, a run of MLflow.

    Example: `nas export 3f2a8d21c0de.zip --to huggingface --target my-model`
    """
    where = registry.load_exporter(to).export(ModelPackage.read(model), target)
    typer.echo(f"exported: {where}")

"""What can be taken away from a search: exported models, and the specification."""

from __future__ import annotations

from nicegui import ui

from nas.core.spec import SearchSpec
from nas.schemas.candidates import ArtifactSchema
from server.dashboard.download_link import download_link
from server.dashboard.elements import copy_button, div, text
from server.dashboard.search.view_model import candidate_url
from server.dashboard.spec_text import spec_text


def draw_downloads(artifacts: tuple[ArtifactSchema, ...], search_id: str) -> None:
    """The files of the exported models, by candidate."""
    if not artifacts:
        return
    archs = list(dict.fromkeys(a.arch for a in artifacts))
    with div("card"), div("fold", "details"):
        text(f"Exported models of {len(archs)} candidates: {len(artifacts)} files", tag="summary")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                text("Candidate", tag="th")
                text("Files", tag="th")
            for arch in archs:
                with div("", "tr"):
                    with div("", "td"):
                        ui.link(arch, candidate_url(search_id, arch, "search")).classes("mono")
                    with div("", "td"), div("flow"):
                        for artifact in artifacts:
                            if artifact.arch == arch:
                                download_link(artifact)


def draw_spec(spec: SearchSpec) -> None:
    """The specification, folded, as YAML or JSON."""
    with div("card"), div("fold", "details"):
        text("Specification", tag="summary")
        with div("flow"):
            format_toggle = ui.toggle(["YAML", "JSON"], value="YAML")
            format_toggle.props("no-caps unelevated dense padding='2px 10px'")
            copy_button(lambda: spec_text(spec, format_toggle.value))
        content = text(spec_text(spec), "code mono", "pre")
        format_toggle.on_value_change(lambda e: content.set_text(spec_text(spec, e.value)))

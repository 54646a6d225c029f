"""A link to a file of an exported model."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.candidates import ArtifactSchema
from server.dashboard import formatting


def download_link(artifact: ArtifactSchema) -> None:
    """The name of the file with its size."""
    ui.link(f"{artifact.name} ({formatting.size(artifact.size_bytes)})", artifact.url).props("download")

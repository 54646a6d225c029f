"""The form that adds a data set: an upload, or a path on the service's machine."""

from __future__ import annotations

from pathlib import Path, PurePath

from nicegui import ui

from nas.client import Client
from nas.core import registry
from nas.core.errors import HwnasError
from nas.core.spec import DataSpec, parse_spec
from nas.core.tasks import DEFAULT_TASK, task_names
from nas.datasets.check import usual_name
from nas.schemas.named_data import NamedDataBody
from server.dashboard.elements import div, heading, text
from server.dashboard.file_field import FileField
from server.dashboard.memoized_view import problem_view
from server.dashboard.service_calls import call_service

_SOURCES = {"upload": "Upload", "path": "A path of the service"}
_SUFFIXES = (".zip", ".npz")


class DataForm:
    """Adds a data set."""

    def __init__(self, client: Client) -> None:
        self._client = client
        with div("card stack"):
            heading("Add a data set", 2)
            self._source = ui.toggle(_SOURCES, value="upload", on_change=self._show_fields).props("no-caps unelevated")
            self._problem = problem_view("Not accepted")
            with div("stack tight") as self._upload_section:
                text(
                    "A zip file with one folder of images for each class, optionally below train, val and test, or an "
                    ".npz file with arrays images and labels. Up to 2 GiB.",
                    "small muted",
                )
                self._file = FileField(
                    "A file",
                    _SUFFIXES,
                    client.upload_data,
                    self._problem,
                    self._suggest_name,
                    noun="a data set",
                    rejection=f"expected a file {' or '.join(_SUFFIXES)} of at most 2 GiB, got another",
                    describe=lambda uploaded: f": {uploaded.files} files",
                )
            with div("form"):
                self._name = ui.input("Name").props("outlined dense")
                self._path = ui.input("Path").props('outlined dense hint="a folder, a file or a URL"')
                kinds = {"": "By its files", **{kind: kind for kind in registry.names("nas.datasets")}}
                self._kind = ui.select(kinds, value="", label="Kind").props("outlined dense")
                self._size = ui.number("Image size", min=4, max=4096, format="%d")
                self._size.props('outlined dense clearable hint="pixels; none: as they are"')
                self._skipped = ui.number("Unreadable images to skip", min=0, value=0, format="%d")
                self._skipped.props("outlined dense")
                self._task = ui.select(task_names(), value=DEFAULT_TASK, label="Task").props("outlined dense")
            with div("flow"):
                div("grow")
                self._button = ui.button("Check and add", on_click=self._send).props("unelevated no-caps")
        self._show_fields()

    def _show_fields(self) -> None:
        is_upload = self._source.value == "upload"
        self._upload_section.set_visibility(is_upload)
        for element in (self._path, self._kind):
            element.set_visibility(not is_upload)

    def _suggest_name(self, filename: str) -> None:
        self._name.value = self._name.value or PurePath(filename).stem

    def _data(self) -> DataSpec:
        params: dict[str, object] = {"image_size": int(self._size.value)} if self._size.value else {}
        if self._skipped.value:
            params["skip_unreadable"] = int(self._skipped.value)
        record = {"task": self._task.value, "params": params}
        if self._source.value == "path":
            path = self._path.value or ""
            kind = self._kind.value or usual_name(Path(path))
            return parse_spec(DataSpec, {"name": kind, "path": path, **record})
        uploaded = self._file.require()
        return parse_spec(DataSpec, {"name": uploaded.kind, "path": uploaded.path, **record})

    async def _send(self) -> None:
        self._button.props("loading")
        try:
            body = parse_spec(NamedDataBody, {"name": self._name.value, "data": self._data().model_dump()})
            added = await call_service(self._client.add_data, body.name, body.data)
            ui.navigate.to(f"/data/{added.name}")
        except HwnasError as error:
            self._problem.show(str(error))
        finally:
            self._button.props(remove="loading")

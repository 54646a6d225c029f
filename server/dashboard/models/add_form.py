"""The form that adds a model: its file, its name, and how images enter it."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePath

from nicegui import events, ui

from nas.client import Client
from nas.core.errors import HwnasError, InvalidInput
from nas.core.model_spec import MODEL_SUFFIXES, ModelSpec, UploadedFile
from nas.core.spec import parse_spec
from server.dashboard.elements import code_block, div, heading, text
from server.dashboard.memoized_view import problem_view
from server.dashboard.service_calls import call_service

_EXPORT = """images = torch.export.Dim("images")
program = torch.export.export(model.train(), (example,), dynamic_shapes=({0: images},))
torch.export.save(program, "model.pt2")"""


class ModelForm:
    """Adds a model."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._file: UploadedFile | None = None
        with div("card stack"):
            heading("Add a model", 2)
            text(
                "A program of torch.export (.pt2), which three lines make of any torch.nn.Module, or an ONNX model. "
                "example is a batch of at least two images. No code of the file runs.",
                "small muted",
            )
            code_block(_EXPORT)
            ui.upload(label=f"A file {' or '.join(MODEL_SUFFIXES)}", on_upload=self._upload, auto_upload=True).props(
                f"accept={','.join(MODEL_SUFFIXES)} flat bordered"
            )
            self._uploaded = text("", "small muted")
            with div("form"):
                self._name = ui.input("Name").props("outlined dense")
                self._mean = ui.input("Mean of the pixels").props('outlined dense hint="such as 123.7, 116.3, 103.5"')
                self._std = ui.input("Their standard deviation").props('outlined dense hint="such as 58.4, 57.1, 57.4"')
            text(
                "Mean and standard deviation by channel, for pixel values 0 to 255, as in the model's training. "
                "Without them, images are normalised by the statistics of a search's data.",
                "small muted",
            )
            self._problem = problem_view("Not accepted")
            with div("flow"):
                div("grow")
                self._button = ui.button("Add model", on_click=self._send).props("unelevated no-caps")

    async def _upload(self, event: events.UploadEventArguments) -> None:
        filename = PurePath(event.file.name).name
        try:
            with tempfile.TemporaryDirectory(prefix="hwnas-upload-") as folder:
                path = Path(folder) / "file"
                await event.file.save(path)
                self._file = await call_service(self._client.upload_model_file, path, filename)
        except HwnasError as error:
            self._file = None
            self._problem.show(str(error))
            return
        self._uploaded.text = f"{filename} is uploaded"
        self._name.value = self._name.value or PurePath(filename).stem
        self._problem.show(None)

    def _record(self) -> dict[str, object]:
        if self._file is None:
            raise InvalidInput("expected a model: choose a file first")
        record: dict[str, object] = {
            "name": self._name.value,
            "source": {"kind": "file", **self._file.model_dump()},
        }
        if self._mean.value or self._std.value:
            record["preprocessing"] = {
                "mean": _numbers("mean", self._mean.value),
                "std": _numbers("standard deviation", self._std.value),
            }
        return record

    async def _send(self) -> None:
        self._button.props("loading")
        try:
            model = await call_service(self._client.add_model, parse_spec(ModelSpec, self._record()))
            ui.navigate.to(f"/models/{model.name}")
        except HwnasError as error:
            self._problem.show(str(error))
        finally:
            self._button.props(remove="loading")


def _numbers(name: str, content: str) -> list[float]:
    try:
        return [float(part) for part in content.split(",")]
    except ValueError as error:
        raise InvalidInput(f"{name}: expected numbers such as 123.7, 116.3, 103.5, got {content!r}") from error

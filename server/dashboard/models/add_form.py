"""The form that adds a model: where it comes from, its name, and how images enter it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError, InvalidInput
from nas.core.model_spec import MODEL_SUFFIXES, PICKLED_HINT, WEIGHTS_SUFFIXES, ModelSpec, UploadedFile
from nas.core.spec import parse_spec
from server.dashboard.elements import code_block, div, heading, text
from server.dashboard.file_field import FileField
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.service_calls import call_service

_SOURCES = {"file": "A file", "package": "An installed package", "timm": "timm"}
_EXPORT = """images = torch.export.Dim("images")
program = torch.export.export(model.train(), (example,), dynamic_shapes=({0: images},))
torch.export.save(program, "model.pt2")"""


class ModelForm:
    """Adds a model."""

    def __init__(self, client: Client) -> None:
        self._client = client
        with div("card stack"):
            heading("Add a model", 2)
            self._source = ui.toggle(_SOURCES, value="file", on_change=self._show_fields).props("no-caps unelevated")
            with div("stack tight") as self._file_section:
                text(
                    "A program of torch.export (.pt2), which three lines make of any torch.nn.Module, or an ONNX "
                    "model. example is a batch of at least two images. No code of the file runs.",
                    "small muted",
                )
                code_block(_EXPORT)
            self._problem = problem_view("Not accepted")
            with self._file_section:
                self._file = _file_field(client, "A file", MODEL_SUFFIXES, self._problem, self._suggest_name)
            with div("form"):
                self._name = ui.input("Name").props("outlined dense")
                self._entry_point = ui.input("Entry point").props('outlined dense hint="of the group nas.models"')
                self._timm = ui.input("Model of timm").props('outlined dense hint="with its published weights"')
                self._mean = ui.input("Mean of the pixels").props('outlined dense hint="such as 123.7, 116.3, 103.5"')
                self._std = ui.input("Their standard deviation").props('outlined dense hint="such as 58.4, 57.1, 57.4"')
                self._data = ui.select({"": "None"}, value="", label="Judge it on").props("outlined dense")
                self._data.props('hint="a data set: the quality of its test images"')
                self._device = ui.select({"": "None"}, value="", label="Measure it on").props("outlined dense")
                self._device.props('hint="a device: its latency as it came"')
            text(
                "Mean and standard deviation by channel, for pixel values 0 to 255, as in the model's training. "
                "Without them, images are normalised by the statistics of a search's data.",
                "small muted",
            )
            with div("fold", "details"):
                text("Other weights", tag="summary")
                text("Tensors of a file in place of the model's own, by name.", "small muted")
                self._weights = _file_field(client, "Weights", WEIGHTS_SUFFIXES, self._problem, lambda _: None)
            with div("flow"):
                div("grow")
                self._button = ui.button("Add model", on_click=self._send).props("unelevated no-caps")
        self._show_fields()

    def offer(self, data_sets: tuple[str, ...], devices: tuple[str, ...]) -> None:
        """Offer data sets to judge the model on and devices to measure it on; what was chosen stays."""
        for select, names in ((self._data, data_sets), (self._device, devices)):
            select.set_options({"": "None"} | {name: name for name in names}, value=select.value)

    def _show_fields(self) -> None:
        for element, source in ((self._file_section, "file"), (self._entry_point, "package"), (self._timm, "timm")):
            element.set_visibility(self._source.value == source)

    def _suggest_name(self, filename: str) -> None:
        self._name.value = self._name.value or PurePath(filename).stem

    def _source_record(self) -> dict[str, object]:
        match self._source.value:
            case "package":
                return {"kind": "package", "entry_point": self._entry_point.value}
            case "timm":
                return {"kind": "timm", "model": self._timm.value}
            case _:
                return {"kind": "file", **self._file.require().model_dump()}

    def _record(self) -> dict[str, object]:
        record: dict[str, object] = {"name": self._name.value, "source": self._source_record()}
        if self._weights.uploaded is not None:
            record["weights"] = self._weights.uploaded.model_dump()
        if self._data.value:
            record["data"] = {"name": self._data.value}
        if self._device.value:
            record["device"] = self._device.value
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


def _file_field(
    client: Client,
    label: str,
    suffixes: tuple[str, ...],
    problem: MemoizedView[[str | None]],
    on_uploaded: Callable[[str], None],
) -> FileField[UploadedFile]:
    hint = PICKLED_HINT if suffixes == MODEL_SUFFIXES else ""
    rejection = f"expected a file of the kind {' or '.join(suffixes)}, got another{hint}"
    upload = client.upload_model_file
    return FileField(label, suffixes, upload, problem, on_uploaded, noun="a model", rejection=rejection)


def _numbers(name: str, content: str) -> list[float]:
    try:
        return [float(part) for part in content.split(",")]
    except ValueError as error:
        raise InvalidInput(f"{name}: expected numbers such as 123.7, 116.3, 103.5, got {content!r}") from error

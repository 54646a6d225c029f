"""The form that adds a device: measured by a worker or an agent, or known by a table or by peak figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nicegui import events, ui
from pydantic import ValidationError

from nas.client import MEDIA_TYPES, Client
from nas.core.errors import HwnasError, InvalidInput
from nas.core.runtimes import PRECISIONS
from nas.core.spec import DeviceSpec, SpaceSpec, parse_spec
from nas.schemas.agents import AgentSchema
from nas.schemas.predictors import LatencyTableSchema
from nas.schemas.service import SpaceSchema
from server.agent_wheel import install_command
from server.dashboard import formatting
from server.dashboard.elements import copy_button, div, heading, text
from server.dashboard.file_field import file_chooser
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.service_calls import call_service

C = TypeVar("C", bound=ui.element)

EXTRAS = ("onnxruntime", "openvino", "litert", "command")  # runtimes of the agent, the usual one first
_SOURCES = {
    "worker": "This service's machine",
    "agent": "Another machine",
    "table": "A table of latencies",
    "roofline": "Peak figures",
}
_DESCRIPTIONS = {
    "worker": "Architectures are measured on the machine of this service's worker.",
    "agent": "An agent measures on that machine. It connects to this service.",
    "table": "A file of architectures and latencies that were measured elsewhere. Candidates cannot be verified on it.",
    "roofline": "Estimates for a machine that is not available, from its peak figures; never called measured.",
}
_NETWORKS = {"": "Find out", "as_written": "As written", "simplified": "Simplified"}


class AddForm:
    """Adds a device. ``address`` is the URL at which agents reach the service."""

    def __init__(
        self,
        client: Client,
        address: str,
        spaces: list[SpaceSchema],
        datasets: list[str],
        models: list[str],
        runtimes: list[str],
    ) -> None:
        self._client = client
        self._address = address
        self._table: LatencyTableSchema | None = None
        self._secret: tuple[str, str] | None = None  # the name of an agent, and its token
        self._presets = {s.name: s.presets for s in spaces}
        self._of_model = [s.name for s in spaces if s.of_model]
        usual = SpaceSpec().name
        names = list(self._presets) or [usual]
        space = usual if usual in names else names[0]
        with div("card stack"):
            heading("Add a device", 2)
            self._source = ui.toggle(_SOURCES, value="worker", on_change=self._show_fields).props("no-caps unelevated")
            self._description = text(_DESCRIPTIONS["worker"], "small muted")
            with div("form"):
                self._name = _field(ui.input("Name", value="this-machine"))
                self._samples = _field(
                    ui.number("Architectures to measure", value=96, min=4, step=1, format="%d"),
                    "at least 32, or 4 once another device is known",
                )
                self._max_hours = _field(
                    ui.number("Time limit (hours)", min=0.001, format="%g").props("clearable"),
                    "of measuring; then it learns from what was measured",
                )
                self._space = _field(ui.select(names, value=space, label="Search space"))
                space_presets = self._presets.get(space) or ["digits"]
                self._preset = _field(ui.select(space_presets, value=space_presets[0], label="Space preset"))
                self._model = _field(
                    ui.select({"": "None"} | {name: name for name in models}, value="", label="Model"),
                    "your own, for a space that starts from one",
                )
                self._data = _field(ui.select(datasets or ["digits"], value=(datasets or ["digits"])[0], label="Data"))
                if "digits" in datasets:
                    self._data.value = "digits"
                self._path = _field(ui.input("Path of the data"), "on the machine that runs the worker")
                self._runtime = _field(ui.select(runtimes, value="onnxruntime", label="Runtime"))
                self._provider = _field(ui.input("Provider"), "or device of the runtime; empty: the processor")
                self._threads = _field(ui.number("Threads", value=1, min=1, format="%d"))
                self._batch = _field(ui.number("Batch", value=1, min=1, format="%d"), "images at once")
                self._precision = _field(ui.select([*PRECISIONS], value="float32", label="Precision"))
                self._flops = _field(ui.number("FLOP/s at most", value=2e12, min=1e6, format="%.3g"))
                self._bandwidth = _field(ui.number("Bytes/s from memory at most", value=5e10, min=1e6, format="%.3g"))
                self._column = _field(ui.input("Column of the device"), "of a table of several, its ms.NAME")
                self._unit = _field(ui.select(["ms", "s", "us", "ns"], value="ms", label="Unit"))
                self._networks = _field(
                    ui.select(_NETWORKS, value="", label="Networks were measured"),
                    "with parts that do nothing, or without",
                )
            text("Use the space and data of the searches that will use the predictor.", "small muted")
            self._space.on_value_change(self._offer_presets)
            self._model.on_value_change(self._follow_model)
            self._offer_presets()
            with div("stack tight") as self._agent_section:
                self._draw_agent_section()
            with div("stack tight") as self._table_section:
                self._draw_table_section()
            self._problem = problem_view("Not accepted")
            with div("flow"):
                div("grow")
                self._button = ui.button("Add device", on_click=self._send).props("unelevated no-caps")
        self._show_fields()

    def show_agents(self, agents: list[AgentSchema]) -> None:
        """List the agents that have registered."""
        self._agents.show(tuple((a.name, a.away) for a in agents))

    def _draw_agent_section(self) -> None:
        text("Run this on the machine, with Python 3.11 or newer. The service itself hands out the agent.")
        self._agent_runtime = _field(ui.select([*EXTRAS], value=EXTRAS[0], label="Runtime of the agent"))
        self._agent_runtime.on_value_change(self._show_command)
        self._command = text("", "code mono", "pre")
        with div("flow"):
            copy_button(lambda: self._command.text)
            ui.button("With a new token", icon="key", on_click=self._make_token).props("outline no-caps")
            div("grow")
            self._agents = MemoizedView(_draw_agents)
        self._agents.show(())
        self._name.on_value_change(self._show_command)
        self._show_command()

    def _draw_table_section(self) -> None:
        text("Columns: arch and ms; or arch and ms.NAME for each device, of which the last needs only ten values.")
        file_chooser(f"A file {', '.join(MEDIA_TYPES)}", tuple(MEDIA_TYPES), self._upload)
        self._uploaded = text("", "small muted")

    def _show_command(self) -> None:
        """Show the command, without the token of another name."""
        name = self._name.value or "NAME"
        if self._secret is not None and self._secret[0] != name:
            self._secret = None
        secret = None if self._secret is None else self._secret[1]
        self._command.text = agent_command(self._address, name, self._agent_runtime.value, secret)

    async def _make_token(self) -> None:
        """Put a new token into the command: of the reader, for the agent of this name alone."""
        try:
            token = await call_service(self._client.create_agent_token, self._name.value)
        except HwnasError as error:
            self._problem.show(str(error))
            return
        self._secret = (self._name.value, token.secret)
        self._show_command()

    def _offer_presets(self) -> None:
        """Offer the presets of the space, or a model where it starts from one."""
        presets = self._presets.get(self._space.value) or []
        self._preset.set_options(presets, value=next(iter(presets), None))
        self._preset.set_visibility(bool(presets))
        if self._space.value not in self._of_model:
            self._model.value = ""

    def _follow_model(self) -> None:
        """Choose a space that starts from a model, if one is chosen."""
        if self._model.value and self._of_model and self._space.value not in self._of_model:
            self._space.value = self._of_model[0]

    def _show_fields(self) -> None:
        source = self._source.value
        self._description.text = _DESCRIPTIONS[source]
        has_field: dict[ui.element, Callable[[str], bool]] = {
            self._samples: lambda s: s != "table",
            self._max_hours: lambda s: s in ("worker", "agent"),
            self._runtime: lambda s: s == "worker",
            self._provider: lambda s: s == "worker",
            self._threads: lambda s: s == "worker",
            self._batch: lambda s: s == "worker",
            self._precision: lambda s: s == "worker",
            self._flops: lambda s: s == "roofline",
            self._bandwidth: lambda s: s == "roofline",
            self._column: lambda s: s == "table",
            self._unit: lambda s: s == "table",
            self._networks: lambda s: s == "table",
            self._agent_section: lambda s: s == "agent",
            self._table_section: lambda s: s == "table",
        }
        for element, is_visible in has_field.items():
            element.set_visibility(is_visible(source))

    async def _upload(self, event: events.UploadEventArguments) -> None:
        try:
            data = await event.file.read()
            self._table = await call_service(self._client.upload_table, data, event.file.name)
        except HwnasError as error:
            self._table = None
            self._problem.show(str(error))
            return
        devices = f", devices {', '.join(self._table.devices)}" if self._table.devices else ""
        self._uploaded.text = f"{formatting.counted(self._table.rows, 'row')}{devices}"
        self._problem.show(None)

    def _record(self) -> dict[str, object]:
        source = self._source.value
        record = {
            "name": self._name.value,
            "source": source,
            "space": {
                "name": self._space.value,
                "model": self._model.value or None,
                "params": {"preset": self._preset.value} if self._preset.value else {},
            },
            "data": {"name": self._data.value, "path": self._path.value or None},
            "samples": self._samples.value,
            "threads": self._threads.value,
        }
        if source in ("worker", "agent"):
            record["max_hours"] = self._max_hours.value or None
        if source == "worker":
            record |= {
                "runtime": self._runtime.value,
                "provider": self._provider.value or None,
                "batch": self._batch.value,
                "precision": self._precision.value,
            }
        if source == "roofline":
            record["roofline"] = {"flops_per_s": self._flops.value, "bytes_per_s": self._bandwidth.value}
        if source == "table":
            if self._table is None:
                raise InvalidInput("expected a table: choose a file first")
            unit = self._unit.value if self._unit.value != "ms" else None
            record["table"] = {
                "blob": self._table.blob,
                "device": self._column.value or None,
                "unit": unit,
                "networks": self._networks.value or None,
            }
        return record

    async def _send(self) -> None:
        self._button.props("loading")
        try:
            spec = parse_spec(DeviceSpec, self._record())
            device = await call_service(self._client.add_device, spec)
            ui.navigate.to(f"/devices/{device.name}")
        except (HwnasError, ValidationError) as error:
            self._problem.show(str(error))
        finally:
            self._button.props(remove="loading")


def agent_command(address: str, name: str, runtime: str = EXTRAS[0], secret: str | None = None) -> str:
    """The commands that install the agent from this service and start it on a machine."""
    token = "" if secret is None else f"HWNAS_TOKEN={secret} "
    chosen = "" if runtime == EXTRAS[0] else f" --runtime {runtime}"
    chosen += " --command ./measure.sh" if runtime == "command" else ""
    return (
        "python3 -m venv hwnas-agent\n"
        f"hwnas-agent/bin/{install_command(address, runtime)}\n"
        f"{token}hwnas-agent/bin/nas-agent --server {address} --name {name}{chosen}"
    )


def _draw_agents(agents: tuple[tuple[str, bool], ...]) -> None:
    if not agents:
        text("No agent has registered yet.", "small muted")
        return
    listed = [f"{name} ({'not reachable' if away else 'connected'})" for name, away in agents]
    text(formatting.sentence(f"agents: {', '.join(listed)}"), "small")


def _field(control: C, hint: str = "") -> C:
    return control.props(f'outlined dense hint="{hint}"' if hint else "outlined dense")

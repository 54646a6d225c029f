"""``/submit``: a form that shows the spec it sends while it is filled in."""

from __future__ import annotations

import uuid
from typing import Any

import yaml
from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError, InvalidSpec
from nas.core.spec import FleetSpec, RetrainSpec, SearchSpec, parse_spec, parse_yaml
from nas.schemas.devices import DeviceSchema
from nas.schemas.dry_runs import CostEstimateSchema, DryRunSchema, StageCostSchema
from nas.schemas.searches import SearchSchema
from nas.schemas.service import SpaceSchema, StrategySchema
from server.dashboard import formatting
from server.dashboard.elements import copy_button, definition_list, div, heading, notice, progress_bar, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller
from server.dashboard.search.fork_dialog import can_fork
from server.dashboard.service_calls import call_service
from server.dashboard.spec_text import spec_text

Catalog = tuple[list[SpaceSchema], list[StrategySchema], list[str], list[DeviceSchema], list[SearchSchema]]


async def submit_page(client: Client, supernet: str, device: str) -> None:
    """A new search; ``supernet`` and ``device`` fill in what the page before knew."""
    forms: list[SubmitForm] = []

    def fetch() -> Catalog:
        finished = [s for s in client.searches(status="succeeded", limit=100).items if can_fork(s)]
        return client.spaces(), client.strategies(), client.datasets(), client.devices(), finished

    with page_layout(client, "New search", "/submit") as shell:
        heading("New search")
        place = div()

        def draw(catalog: Catalog) -> None:
            if not forms:
                with place:
                    forms.append(SubmitForm(client, catalog, supernet, device))

        await Poller(shell, fetch, draw, lambda _: False).start()


class SubmitForm:
    """The form. What is typed stays, whatever the service answers."""

    def __init__(self, client: Client, catalog: Catalog, supernet: str, device: str) -> None:
        self._client = client
        self._key = uuid.uuid4().hex  # with the spec's hash: a double click submits once
        with div("cols"):
            with div("stack"):
                self._draw_fields(catalog, supernet, device)
            with div("stack"):
                self._draw_preview()
        self._changed()

    def _draw_fields(self, catalog: Catalog, supernet: str, device: str) -> None:
        spaces, strategies, datasets, devices, finished = catalog
        self._spaces = {s.name: s for s in spaces}
        default = SearchSpec()
        self._parents = {s.id: s for s in finished}
        parent = self._parents.get(supernet)
        start = self._start = parent.spec if parent is not None else default
        ready = [d.name for d in devices if d.predictors]
        chosen = device or (start.device if start.device in ready or not ready else ready[0])
        with div("card"), div("form"):
            text("What to search", "form-title")
            self._name = self._add(ui.input("Name", value=start.name if parent else "my first search"), wide=True)
            self._space = self._add(
                ui.select(_with(list(self._spaces), start.space.name), label="Search space", value=start.space.name)
            )
            presets = self._presets(start.space.name)
            preset = start.space.params.get("preset")
            self._preset = self._add(ui.select(_with(presets, preset), label="Space preset", value=preset))
            self._data = self._add(ui.select(_with(datasets, start.data.name), label="Data set", value=start.data.name))
            self._path = self._add(
                ui.input("Path of the data", value=start.data.path or ""), "on the machine that runs the search"
            )
            text("For which device", "form-title")
            self._device = self._add(
                ui.select(_with(ready, chosen), label="Device", value=chosen, with_input=False),
                "" if ready else "no device has a predictor yet: add one under Devices",
            )
            self._draw_fleet(ready, start.fleet if chosen == start.device else None)
            bound = start.bound("latency")
            self._bound = self._add(
                ui.number("Latency bound (ms)", value=bound, min=0, step=0.1, format="%g").props("clearable"),
                "optional; held to the calibrated upper bound",
            )
            text("How much", "form-title")
            self._evaluations = self._add(
                ui.number("Evaluations", value=start.budget.evaluations, min=8, step=40, format="%d"),
                "estimated subnets, by the search and by random search each",
            )
            self._verified = self._add(
                ui.number("Networks to verify", value=start.budget.verified, min=1, format="%d"),
                "front members measured on the device at most",
            )
            parents = {"": "Train a new supernet"} | {s.id: f"{s.spec.name} ({s.id[:8]})" for s in finished}
            self._supernet = self._add(
                ui.select(parents, label="Supernet", value=supernet if parent else ""),
                "one that is trained already saves the training",
                wide=True,
            )
            self._int8 = ui.checkbox("Export int8 beside float32", value=start.export.int8).props("dense")
            self._int8.on_value_change(self._changed)
        with div("card"), div("fold", "details"):
            text("More", tag="summary")
            with div("form"):
                self._strategy = self._add(
                    ui.select(
                        _with([s.name for s in strategies], start.strategy.name),
                        label="Strategy",
                        value=start.strategy.name,
                    )
                )
                self._retrain = self._add(
                    ui.number(
                        "Retrain, epochs", min=1, format="%d", value=start.retrain.epochs if start.retrain else None
                    ).props("clearable"),
                    "trains what is found from scratch; zero_cost cannot do without",
                )
                self._reexplore = self._add(
                    ui.number("Rounds around broken bounds", value=start.budget.reexplore, min=0, max=10, format="%d"),
                    "at most, without training, after networks were measured; 0: none",
                )
                self._seed = self._add(ui.number("Seed", value=start.seed, min=0, format="%d"))
                self._cpus = self._add(ui.number("Processor cores", value=start.resources.cpus, min=1, format="%d"))
                self._gpus = self._add(ui.number("GPUs", value=start.resources.gpus, min=0, format="%d"))
                self._params_bound = self._add(
                    ui.number("Parameter bound", min=1, format="%d", value=start.bound("params")).props("clearable"),
                    "makes parameters an objective",
                )
                self._macs_bound = self._add(
                    ui.number("MACs bound", min=1, format="%d", value=start.bound("macs")).props("clearable"),
                    "makes MACs an objective",
                )
                self._peak_bound = self._add(
                    ui.number("Peak memory bound (bytes)", min=1, format="%d", value=start.bound("peak_memory")).props(
                        "clearable"
                    ),
                    "activations that live at once, batch 1; makes it an objective",
                )
                self._size_bound = self._add(
                    ui.number("Model size bound (bytes)", min=1, format="%d", value=start.bound("model_bytes")).props(
                        "clearable"
                    ),
                    "weights in float32; makes it an objective",
                )
                self._energy_bound = self._add(
                    ui.number("Energy bound (mJ)", min=0, format="%g", value=start.bound("energy")).props("clearable"),
                    "of a device whose table tells energies; makes it an objective",
                )
                self._export = self._add(
                    ui.number("Networks to export", min=1, format="%d", value=start.export.count).props("clearable"),
                    "empty: every front member",
                )
                div()
                defaults = next((s.params for s in strategies if s.name == start.strategy.name), {})
                shown = ", ".join(f"{k}: {v}" for k, v in defaults.items())
                self._strategy_params = self._add(
                    ui.textarea("Strategy parameters (YAML)", value=_yaml(start.strategy.params)).props("rows=3"),
                    f"defaults: {shown}" if shown else "",
                    wide=True,
                )
                rest = {k: v for k, v in start.space.params.items() if k != "preset"}
                self._space_params = self._add(
                    ui.textarea("Further space parameters (YAML)", value=_yaml(rest)).props("rows=3"),
                    "beside the preset",
                    wide=True,
                )
        self._space.on_value_change(self._space_chosen)
        self._problem = MemoizedView(lambda title, message: notice("bad", title, message) if message else None)
        with div("flow"):
            div("grow")
            self._dry = ui.button("Dry run", icon="straighten", on_click=self._check).props("outline no-caps")
            self._time = ui.button("Time it on a worker", icon="timer", on_click=self._price).props("outline no-caps")
            self._go = ui.button("Submit", icon="send", on_click=self._submit).props("unelevated no-caps")
        self._found = MemoizedView(lambda found, timed: _draw_dry_run(found, timed) if found is not None else None)

    def _draw_fleet(self, ready: list[str], start: FleetSpec | None) -> None:
        further = list(start.devices[1:]) if start is not None else []
        self._further = None
        if len(ready) < 2 and not further:
            return
        self._further = self._add(
            ui.select(
                [*dict.fromkeys([*ready, *further])], multiple=True, label="Further devices", value=further
            ).props("use-chips"),
            "optional: several devices in one search",
        )
        fronts = {"worst_case": "One, for the worst case", "each": "One for each device"}
        front = start.front if start is not None else "worst_case"
        self._fleet_front = self._add(ui.select(fronts, label="Front of several devices", value=front))
        bounds_ms = start.bounds_ms if start is not None else {}
        self._fleet_bounds = self._add(
            ui.textarea("Latency bounds by device (YAML)", value=_yaml(bounds_ms)).props("rows=2"),
            "optional, in ms, such as board: 12",
        )

    def _fleet(self) -> dict[str, Any] | None:
        """Several devices as a spec's record. Raises InvalidSpec for YAML that is none."""
        first = self._device.value
        others = [name for name in self._further.value if name != first] if self._further is not None else []
        if not others:
            return None
        bounds_ms = _mapping("latency bounds by device", self._fleet_bounds.value)
        return {"devices": [first, *others], "front": self._fleet_front.value, "bounds_ms": bounds_ms}

    def _draw_preview(self) -> None:
        with div("card stack"):
            with div("card-head").style("margin: 0"):
                heading("What is sent", 2)
                div("grow")
                self._format = ui.toggle(["YAML", "JSON"], value="YAML", on_change=lambda _: self._changed()).props(
                    "no-caps unelevated dense padding='2px 10px'"
                )
                copy_button(lambda: self._preview.text)
            self._preview = text("", "code mono spec-preview", "pre")
            text("Keep it in a file, and submit it again from the command line or the Python client.", "small muted")

    def _add(self, control: Any, hint: str = "", wide: bool = False) -> Any:
        control.props(f'outlined dense hint="{hint}"' if hint else "outlined dense")
        if wide:
            control.classes("wide")
        control.on_value_change(self._changed)
        return control

    def _presets(self, space: str) -> list[str]:
        return list(self._spaces[space].presets) if space in self._spaces else []

    def _space_chosen(self) -> None:
        presets = self._presets(self._space.value)
        self._preset.set_options(presets, value=presets[0] if presets else None)

    def _record(self) -> dict[str, Any]:
        """The form as a spec's record. Raises InvalidSpec for YAML that is none."""
        objectives: list[dict[str, Any]] = [{"name": "accuracy"}, {"name": "latency", "bound": self._bound.value}]
        further = {
            "params": self._params_bound.value,
            "macs": self._macs_bound.value,
            "peak_memory": self._peak_bound.value,
            "model_bytes": self._size_bound.value,
            "energy": self._energy_bound.value,
        }
        for name, bound in further.items():
            if bound:
                objectives.append({"name": name, "bound": bound})
        preset = {"preset": self._preset.value} if self._preset.value else {}
        start = self._start.model_dump(mode="json")  # what the form has no fields for stays
        data = start["data"] if self._data.value == start["data"]["name"] else {}
        return {
            "name": self._name.value,
            "space": {
                "name": self._space.value,
                "params": preset | _mapping("space parameters", self._space_params.value),
            },
            "strategy": {
                "name": self._strategy.value,
                "params": _mapping("strategy parameters", self._strategy_params.value),
            },
            "data": data | {"name": self._data.value, "path": self._path.value or None},
            "device": self._device.value,
            "fleet": self._fleet(),
            "objectives": objectives,
            "budget": {
                "evaluations": self._evaluations.value,
                "verified": self._verified.value,
                "reexplore": self._reexplore.value,
            },
            "export": {"count": self._export.value, "int8": self._int8.value},
            "resources": start["resources"] | {"cpus": self._cpus.value, "gpus": self._gpus.value},
            "seed": self._seed.value,
            "supernet": self._supernet.value or None,
            "retrain": self._retrained(),
        }

    def _retrained(self) -> dict[str, Any] | None:
        if not self._retrain.value:
            return None
        usual = self._start.retrain or RetrainSpec()
        networks = min(usual.networks, int(self._verified.value or usual.networks))
        return usual.model_dump(mode="json") | {"epochs": self._retrain.value, "networks": networks}

    def _spec(self) -> SearchSpec:
        return parse_spec(SearchSpec, self._record())

    def _changed(self) -> None:
        """Shows the spec as it would be sent now, or what is wrong with it."""
        if not hasattr(self, "_preview"):
            return
        self._found.show(None, False)
        try:
            self._preview.text = spec_text(self._spec(), self._format.value)
        except InvalidSpec as error:
            self._preview.text = f"# not complete yet\n# {error}"

    async def _check(self) -> None:
        await self._dry_run(self._dry, measure=False)

    async def _price(self) -> None:
        await self._dry_run(self._time, measure=True)

    async def _dry_run(self, button: ui.button, *, measure: bool) -> None:
        button.props("loading")
        try:
            spec = self._spec()
            found = await call_service(self._client.dry_run, spec, measure)
            self._problem.show("", "")
            if spec == self._spec():  # what was typed meanwhile would have another answer
                self._found.show(found, measure)
        except HwnasError as error:
            self._problem.show("The dry run was refused", str(error))
        finally:
            button.props(remove="loading")

    async def _submit(self) -> None:
        self._go.props("loading")
        try:
            spec = self._spec()
            search = await call_service(self._client.submit, spec, f"{self._key}-{spec.content_hash[:16]}")
            ui.navigate.to(f"/searches/{search.id}")
        except HwnasError as error:
            self._problem.show("The search was not accepted", str(error))
        finally:
            self._go.props(remove="loading")


def _draw_dry_run(found: DryRunSchema, timed: bool) -> None:
    with div("card stack"):
        heading("Dry run", 2)
        if found.feasible:
            notice("good", "Feasible: networks of this space can meet every bound")
        else:
            notice("bad", "Not feasible as written", found.problems or "No network can meet the bounds.")
        rows = [
            ("Size of the space", f"{formatting.huge(found.space_size)} networks"),
            ("Stages", ", ".join(found.stages)),
        ]
        if found.lowest_reachable_ms is not None:
            rows.append(
                ("Lowest reachable latency", f"{formatting.quantity(found.lowest_reachable_ms, 'ms')} (upper bound)")
            )
        if found.feasible_share is not None:
            rows.append(
                ("Networks within the bounds", f"{found.feasible_share * 100:.1f} % of {found.sampled} sampled")
            )
        for r in found.fleet:
            if r.lowest_reachable_ms is not None and r.feasible_share is not None:
                least = formatting.quantity(r.lowest_reachable_ms, "ms")
                rows.append((f"On {r.device}", f"lowest {least}; {r.feasible_share * 100:.1f} % within its bounds"))
        for name, (low, high) in found.ranges.items():
            unit, kind = formatting.unit_and_kind(name)
            title = (
                formatting.label(name)
                if kind in formatting.label(name).lower()
                else f"{formatting.label(name)} ({kind})"
            )
            rows.append((title, f"{formatting.quantity(low, unit)} to {formatting.quantity(high, unit)}"))
        rows.append(("Spec", found.spec_hash[:16]))
        definition_list(rows)
        if found.cost is not None:
            _draw_cost(found.cost)
        elif timed and found.feasible:
            notice("warn", "How long it takes is not known", found.cost_missing or "")


def _draw_cost(cost: CostEstimateSchema) -> None:
    """What each stage will take, with the range, and what is not known about it."""
    heading(f"About {formatting.duration(cost.seconds)} on {cost.worker}", 2)
    whole = f"{formatting.duration(cost.low_s)} to {formatting.duration(cost.high_s)}"
    text(
        f"{whole}; {formatting.size(cost.memory_bytes)} of memory. Timed with a few real steps of each stage.",
        "small muted",
    )
    for stage in cost.stages:
        with div("stages"), div("stage finished"):
            progress_bar((stage.seconds or 0.0) / max(cost.seconds, 1e-9))
            with div("title"):
                text(f"{stage.stage}: {_time(stage)}", tag="span")
            if stage.note:
                text(stage.note, "note")
    used = f"{cost.cpu_hours:.2g} CPU-hours" + (f" and {cost.gpu_hours:.2g} GPU-hours" if cost.gpu_hours else "")
    rows = [("Computing time", used), ("Evaluations", f"{cost.evaluations} by the search, as many by random search")]
    definition_list(rows)
    if cost.confidence == "partial":
        notice("warn", "Some stages cannot say what they take; sums are without them")


def _time(stage: StageCostSchema) -> str:
    if stage.seconds is None or stage.low_s is None or stage.high_s is None:
        return "not known"
    if stage.high_s == 0:
        return "nothing"
    steps = f", {stage.steps} {stage.unit}" if stage.unit else ""
    estimate, low, high = (formatting.duration(s) for s in (stage.seconds, stage.low_s, stage.high_s))
    return f"{estimate} ({low} to {high}{steps})"


def _with(options: list[str], value: str | None) -> list[str]:
    """The options, and the present value if it is none of them."""
    return options if value is None or value in options else [value, *options]


def _yaml(params: dict[str, Any]) -> str:
    return str(yaml.safe_dump(params, sort_keys=False)) if params else ""


def _mapping(what: str, content: str | None) -> dict[str, Any]:
    try:
        record = parse_yaml(content or "") or {}
    except InvalidSpec as error:
        raise InvalidSpec(f"{what}: {error}") from error
    if not isinstance(record, dict):
        raise InvalidSpec(f"{what}: expected lines like 'name: value', got {content!r}")
    return record

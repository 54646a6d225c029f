"""The fields of the form for a new search, and the spec that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from nas.core.errors import InvalidSpec
from nas.core.retraining import RetrainSpec, WarmedUpRecipeFields, teacher_as_text, teacher_from_text
from nas.core.runtimes import PRECISIONS
from nas.core.spec import UNTRAINED_BUDGET, DataSpec, FleetSpec, SearchSpec, SpaceSpec, StrategySpec, parse_spec
from nas.core.strict_yaml import parse_yaml
from nas.core.tasks import load_task, task_names
from nas.schemas.searches import SearchSchema
from nas.schemas.service import SpaceSchema, StrategySchema
from server.dashboard.elements import div, text

_DEFAULT_NAME = "my first search"
_COMPRESS = "compress"  # the strategy that makes a model smaller
_COST_BOUNDS = {  # objective: label, step format, hint
    "params": ("Parameter bound", "%d", "makes parameters an objective"),
    "macs": ("MACs bound", "%d", "makes MACs an objective"),
    "peak_memory": ("Peak memory bound (bytes)", "%d", "peak of live activations at batch 1; makes it an objective"),
    "model_bytes": ("Model size bound (bytes)", "%d", "weights in float32; makes it an objective"),
    "energy": ("Energy bound (mJ)", "%g", "for devices whose table has energies; makes it an objective"),
}

_OF_RETRAINING = {"distillation", "lr", "weight_decay", "augmentation", "drop_path", "auxiliary", "quantised_epochs"}
_RECIPE = {*WarmedUpRecipeFields.model_fields, *_OF_RETRAINING}

C = TypeVar("C", bound=ValueElement[Any])
SpecRecord = dict[str, Any]  # of a spec, before ``parse_spec`` checks it


@dataclass(frozen=True)
class SubmitOptions:
    """What the form offers: ``devices`` that have predictors, ``parents``, searches with a trained supernet, and
    ``models`` that spaces can start from, with the data that they were judged on."""

    spaces: list[SpaceSchema]
    strategies: list[StrategySchema]
    datasets: list[str]
    devices: list[str]
    parents: list[SearchSchema]
    models: dict[str, DataSpec | None]


class SpecFields:
    """Fields with the values of a spec: the defaults, or the spec of the search whose supernet is used."""

    def __init__(self, options: SubmitOptions, supernet: str, device: str, model: str = "") -> None:
        self._controls: list[ValueElement[Any]] = []
        parent = next((search for search in options.parents if search.id == supernet), None)
        self._initial = parent.spec if parent is not None else default_spec(options, model)
        self._presets = {space.name: list(space.presets) for space in options.spaces}
        with div("card"), div("form"):
            text("Search", "form-title")
            self._draw_search_fields(options)
            text("Device", "form-title")
            self._draw_device_fields(options, device)
            text("Budget", "form-title")
            self._draw_budget_fields(options, parent)
        with div("card"), div("fold", "details"):
            text("More", tag="summary")
            with div("form"):
                self._draw_advanced_fields(options)
        self._preset.set_visibility(bool(self._presets.get(self._space.value)))
        self._space.on_value_change(self._offer_presets)
        self._model.on_value_change(self._follow_model)
        self._space.on_value_change(lambda: self._supernet.set_options(self._supernets(), value=self._supernet.value))
        self._spaces, self._strategies = options.spaces, {s.name: s for s in options.strategies}
        self._strategy.on_value_change(self._offer_spaces)

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever a field changes."""
        for control in self._controls:
            control.on_value_change(handler)

    def spec(self) -> SearchSpec:
        """The spec of the present values. Raises InvalidSpec."""
        return parse_spec(SearchSpec, self._record())

    def _draw_search_fields(self, options: SubmitOptions) -> None:
        initial = self._initial
        preset = initial.space.params.get("preset")
        self._name = self._field(ui.input("Name", value=initial.name), wide=True)
        self._space = self._select("Search space", list(self._presets), initial.space.name)
        self._preset = self._select(
            "Space preset", self._presets.get(initial.space.name, []), preset if isinstance(preset, str) else None
        )
        model_names = {"": "None"} | {name: name for name in options.models}
        self._model = self._field(
            ui.select(model_names, label="Model", value=initial.space.model or ""),
            "your own, for a space that starts from one",
        )
        self._task = self._select("Task", task_names(), initial.data.task)
        self._data = self._select("Data set", options.datasets, initial.data.name)
        path = ui.input("Path of the data", value=initial.data.path or "")
        self._path = self._field(path, "on the machine that runs the search")

    def _draw_device_fields(self, options: SubmitOptions, device: str) -> None:
        initial, devices = self._initial, options.devices
        selected = device or (initial.device if initial.device in devices or not devices else devices[0])
        hint = "" if devices else "no device has a predictor yet: add one under Devices"
        self._device = self._select("Device", devices, selected, hint)
        fleet = initial.fleet if selected == initial.device else None
        self._further_devices = self._draw_fleet_fields(devices, fleet)
        bound = ui.number("Latency bound (ms)", value=initial.bound("latency"), min=0, step=0.1, format="%g")
        self._bound_ms = self._field(bound.props("clearable"), "optional; held to the calibrated upper bound")

    def _draw_fleet_fields(self, devices: list[str], fleet: FleetSpec | None) -> ui.select | None:
        further = list(fleet.devices[1:]) if fleet is not None else []
        if len(devices) < 2 and not further:
            return None
        names = [*dict.fromkeys([*devices, *further])]
        select = ui.select(names, multiple=True, label="Further devices", value=further).props("use-chips")
        self._field(select, "optional: several devices in one search")
        fronts = {"worst_case": "One, for the worst case", "each": "One for each device"}
        front = fleet.front if fleet is not None else "worst_case"
        self._fleet_front = self._field(ui.select(fronts, label="Front of several devices", value=front))
        bounds_ms = dict(fleet.bounds_ms) if fleet is not None else {}
        bounds = ui.textarea("Latency bounds by device (YAML)", value=_yaml(bounds_ms)).props("rows=2")
        self._fleet_bounds_ms = self._field(bounds, "optional, in ms, such as board: 12")
        return select

    def _draw_budget_fields(self, options: SubmitOptions, parent: SearchSchema | None) -> None:
        initial = self._initial
        evaluations = ui.number("Evaluations", value=initial.budget.evaluations, min=8, step=40, format="%d")
        self._evaluations = self._field(evaluations, "candidates of the search, and as many of random search")
        verified = ui.number("Candidates to verify", value=initial.budget.verified, min=1, format="%d")
        self._verified = self._field(verified, "at most so many front members are measured on the device")
        self._trained = {s.id: f"{s.spec.name} ({s.id[:8]})" for s in options.parents}
        self._of_model = {space.name for space in options.spaces if space.of_model}
        supernet = ui.select(self._supernets(), label="Supernet", value=parent.id if parent is not None else "")
        self._supernet = self._field(supernet, "a trained supernet needs no training", wide=True)
        self._int8 = ui.checkbox("Export int8 beside float32", value=initial.export.int8).props("dense")
        self._controls.append(self._int8)

    def _draw_advanced_fields(self, options: SubmitOptions) -> None:
        initial = self._initial
        self._strategy = self._select("Strategy", [s.name for s in options.strategies], initial.strategy.name)
        retrain_epochs = initial.retrain.epochs if initial.retrain else None
        retrain = ui.number("Retraining, epochs", min=1, format="%d", value=retrain_epochs).props("clearable")
        self._retrain = self._field(retrain, "trains the best architectures alone; zero_cost requires it")
        self._draw_retraining_fields(initial.retrain or RetrainSpec())
        reexplore = ui.number("Refinement rounds", value=initial.budget.reexplore, min=0, max=10, format="%d")
        self._reexplore = self._field(reexplore, "at most, without training, after measured bounds were violated")
        self._precision = self._select("Precision", [*PRECISIONS], initial.precision)
        self._seed = self._field(ui.number("Seed", value=initial.seed, min=0, format="%d"))
        self._cpus = self._field(ui.number("Processor cores", value=initial.resources.cpus, min=1, format="%d"))
        self._gpus = self._field(ui.number("GPUs", value=initial.resources.gpus, min=0, format="%d"))
        ranks = ui.number("Ranks", value=initial.resources.ranks, min=1, format="%d").props("clearable")
        self._ranks = self._field(ranks, "processes that train a supernet together; empty: one, or one for each GPU")
        hours = ui.number("Time limit (hours)", min=0.001, value=initial.resources.max_hours, format="%g")
        self._max_hours = self._field(hours.props("clearable"), "on workers; then the front so far is the result")
        self._cost_bounds = {}
        for objective, (label, number_format, hint) in _COST_BOUNDS.items():
            lowest = 0 if objective == "energy" else 1
            bound = ui.number(label, min=lowest, format=number_format, value=initial.bound(objective))
            self._cost_bounds[objective] = self._field(bound.props("clearable"), hint)
        export = ui.number("Models to export", min=1, format="%d", value=initial.export.count).props("clearable")
        self._export_count = self._field(export, "empty: every front member")
        div()
        defaults = next((s.params for s in options.strategies if s.name == initial.strategy.name), {})
        default_text = ", ".join(f"{k}: {v}" for k, v in defaults.items())
        strategy_params = ui.textarea("Strategy parameters (YAML)", value=_yaml(initial.strategy.params))
        hint = f"defaults: {default_text}" if default_text else ""
        self._strategy_params = self._field(strategy_params.props("rows=3"), hint, wide=True)
        params = {k: v for k, v in initial.space.params.items() if k != "preset"}
        space_params = ui.textarea("Further space parameters (YAML)", value=_yaml(params)).props("rows=3")
        self._space_params = self._field(space_params, "in addition to the preset", wide=True)

    def _draw_retraining_fields(self, initial: RetrainSpec) -> None:
        starts = {"": "As the space has it", "scratch": "From scratch", "inherited": "With the search's weights"}
        start = ui.select(starts, label="Retraining starts", value=initial.start or "")
        self._start = self._field(start, "from scratch, unless the space starts from a model")
        teacher = ui.input("Teacher of retraining", value=teacher_as_text(initial.teacher))
        self._teacher = self._field(teacher, "none, parent, largest or SEARCH/NETWORK, an exported model")
        recipe = initial.model_dump(mode="json", include=_RECIPE, exclude_defaults=True)
        field = ui.textarea("Recipe of retraining (YAML)", value=_yaml(recipe)).props("rows=2")
        self._recipe = self._field(field, "such as ema_decay: 0.99, mixup: 0.2, distillation: {weight: 0.5}", wide=True)

    def _select(self, label: str, options: list[str], value: str | None, hint: str = "") -> ui.select:
        """A select of ``options``, and of ``value`` if it is none of them."""
        choices = options if value is None or value in options else [value, *options]
        return self._field(ui.select(choices, label=label, value=value), hint)

    def _field(self, control: C, hint: str = "", wide: bool = False) -> C:
        control.props(f'outlined dense hint="{hint}"' if hint else "outlined dense")
        if wide:
            control.classes("wide")
        self._controls.append(control)
        return control

    def _offer_spaces(self) -> None:
        """Offer the spaces that the strategy can search, and choose the first if the present one is none of them."""
        strategy = self._strategies.get(self._strategy.value)
        relaxed_only = strategy is not None and strategy.relaxed_only
        model_only = strategy is not None and strategy.model_only
        names = [
            space.name
            for space in self._spaces
            if (space.relaxed or not relaxed_only) and (space.of_model or not model_only)
        ]
        self._space.set_options(names, value=self._space.value if self._space.value in names else next(iter(names), ""))

    def _supernets(self) -> dict[str, str]:
        """The supernets to start from, by search; the first is that of no search."""
        is_of_model = self._space.value in self._of_model
        return {"": "The weights of the model" if is_of_model else "Train a new supernet"} | self._trained

    def _offer_presets(self) -> None:
        presets = self._presets.get(self._space.value, [])
        self._preset.set_options(presets, value=presets[0] if presets else None)
        self._preset.set_visibility(bool(presets))

    def _follow_model(self) -> None:
        """Choose a space that starts from a model, if one is chosen."""
        if self._model.value and self._of_model and self._space.value not in self._of_model:
            self._space.value = min(self._of_model)

    def _record(self) -> SpecRecord:
        """The spec as a record. Raises InvalidSpec for malformed YAML."""
        initial: SpecRecord = self._initial.model_dump(mode="json")  # the form has no fields for some of its values
        preset = {"preset": self._preset.value} if self._preset.value else {}
        data = initial["data"] if self._data.value == initial["data"]["name"] else {}
        space_params = preset | _mapping("space parameters", self._space_params.value)
        strategy_params = _mapping("strategy parameters", self._strategy_params.value)
        return {
            "name": self._name.value,
            "space": {"name": self._space.value, "model": self._model.value or None, "params": space_params},
            "strategy": {"name": self._strategy.value, "params": strategy_params},
            "data": data | {"name": self._data.value, "path": self._path.value or None, "task": self._task.value},
            "device": self._device.value,
            "fleet": self._fleet(),
            "objectives": self._objectives(),
            "budget": {
                "evaluations": self._evaluations.value,
                "verified": self._verified.value,
                "reexplore": self._reexplore.value,
            },
            "export": {"count": self._export_count.value, "int8": self._int8.value},
            "resources": initial["resources"]
            | {
                "cpus": self._cpus.value,
                "gpus": self._gpus.value,
                "ranks": self._ranks.value or None,
                "max_hours": self._max_hours.value or None,
            },
            "seed": self._seed.value,
            "precision": self._precision.value,
            "supernet": self._supernet.value or None,
            "retrain": self._retraining(),
        }

    def _objectives(self) -> list[SpecRecord]:
        costs = [
            {"name": objective, "bound": field.value} for objective, field in self._cost_bounds.items() if field.value
        ]
        quality = load_task(self._task.value).objective
        return [{"name": quality}, {"name": "latency", "bound": self._bound_ms.value}, *costs]

    def _fleet(self) -> SpecRecord | None:
        """Several devices; None for one. Raises InvalidSpec for malformed YAML."""
        first, select = self._device.value, self._further_devices
        further = [name for name in select.value if name != first] if select is not None else []
        if not further:
            return None
        bounds_ms = _mapping("latency bounds by device", self._fleet_bounds_ms.value)
        return {"devices": [first, *further], "front": self._fleet_front.value, "bounds_ms": bounds_ms}

    def _retraining(self) -> SpecRecord | None:
        if not self._retrain.value:
            return None
        initial = self._initial.retrain or RetrainSpec()
        networks = min(initial.networks, int(self._verified.value or initial.networks))
        teacher = teacher_from_text(self._teacher.value or "none")
        return initial.model_dump(mode="json", exclude=_RECIPE) | {
            "epochs": self._retrain.value,
            "networks": networks,
            "start": self._start.value or None,
            "teacher": teacher if isinstance(teacher, str) else teacher.model_dump(),
            **_mapping("recipe of retraining", self._recipe.value),
        }


def default_spec(options: SubmitOptions, model: str) -> SearchSpec:
    """A first search; of a model, over the first space that starts from one, by the strategy that compresses it, on the
    data that it was judged on."""
    space = next((space.name for space in options.spaces if space.of_model), None)
    strategy = next((s.name for s in options.strategies if s.name == _COMPRESS), None)
    if not model or space is None or strategy is None:
        return SearchSpec(name=_DEFAULT_NAME)
    return SearchSpec(
        name=f"{model}, faster",
        space=SpaceSpec(name=space, model=model, params={}),
        strategy=StrategySpec(name=strategy, params={"preset": "no_training"}),
        data=options.models.get(model) or DataSpec(),
        budget=UNTRAINED_BUDGET,
    )


def _yaml(params: SpecRecord) -> str:
    return str(yaml.safe_dump(params, sort_keys=False)) if params else ""


def _mapping(field: str, content: str | None) -> SpecRecord:
    """The YAML of a field. Raises InvalidSpec."""
    try:
        record = parse_yaml(content or "") or {}
    except InvalidSpec as error:
        raise InvalidSpec(f"{field}: {error}") from error
    if not isinstance(record, dict):
        raise InvalidSpec(f"{field}: expected lines like 'name: value', got {content!r}")
    return record

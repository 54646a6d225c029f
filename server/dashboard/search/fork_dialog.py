"""The form of a new search on the trained supernet of another."""

from __future__ import annotations

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.spec import SearchSpec, parse_spec
from nas.core.tasks import Task
from nas.schemas.searches import ForkBody, SearchSchema
from server.dashboard.dialogs import dialog_buttons
from server.dashboard.elements import div, heading, text
from server.dashboard.layout import PageShell
from server.dashboard.service_calls import call_service

_BOUND_LABELS = {
    "latency": "Latency bound (ms)",
    "params": "Parameter bound",
    "macs": "MACs bound",
    "peak_memory": "Peak memory bound (bytes)",
    "model_bytes": "Model size bound (bytes)",
    "energy": "Energy bound (mJ)",
}


def _bound_label(task: Task, objective: str) -> str:
    if objective != task.objective:
        return _BOUND_LABELS[objective]
    unit = f" ({task.quality.unit})" if task.quality.unit else ""
    return f"{'Lowest' if task.maximised else 'Highest'} {task.quality.title}{unit}"


def can_fork(search: SearchSchema) -> bool:
    """Whether the search has a trained supernet that another search can use."""
    if search.spec.strategy.name == "zero_cost":
        return False  # it trains no supernet
    trained = any(s.name == "train" and s.status == "finished" for s in search.stages)
    return search.status == "succeeded" or search.spec.supernet is not None or trained


async def fork_dialog(client: Client, shell: PageShell, search: SearchSchema) -> None:
    """Open a form with the parent's values; the child's page opens once the service accepts it."""
    problem = ""
    names = {search.spec.device}
    try:
        names |= {d.name for d in await call_service(client.devices) if d.predictors}
    except HwnasError as error:
        problem = str(error)
    spec = search.spec
    with shell.content, ui.dialog() as dialog, div("card stack"):
        heading("Fork this search", 2)
        text("A new search on the trained supernet of this one: seconds to minutes, no training.", "muted small")
        with div("form"):
            name = ui.input("Name", value=f"{spec.name[:113]}, fork").props("outlined dense").classes("wide")
            device = ui.select(sorted(names), value=spec.device, label="Device").props("outlined dense")
            seed = ui.number("Seed", value=spec.seed, min=0, format="%d").props("outlined dense")
            evaluations = ui.number("Evaluations", value=spec.budget.evaluations, min=8, step=8, format="%d")
            evaluations.props("outlined dense hint='by search and by random search each'")
            verified = ui.number("Candidates to verify", value=spec.budget.verified, min=1, format="%d")
            verified.props("outlined dense hint='at most so many are measured on the device'")
            bounds = {
                o.name: ui.number(_bound_label(spec.task, o.name), value=o.bound, min=0, format="%g").props(
                    "outlined dense clearable hint='empty: no bound'"
                )
                for o in spec.objectives
            }

        def body() -> ForkBody:
            """The differences from the parent. Raises InvalidSpec."""
            record = spec.model_dump(mode="json") | {
                **({"fleet": None} if device.value != spec.device else {}),
                "name": name.value,
                "device": device.value,
                "seed": seed.value,
                "budget": {**spec.budget.model_dump(), "evaluations": evaluations.value, "verified": verified.value},
                "objectives": [{"name": o.name, "bound": bounds[o.name].value} for o in spec.objectives],
            }
            child = parse_spec(SearchSpec, record)
            return ForkBody(
                name=child.name,
                device=child.device if child.device != spec.device else None,
                objectives=list(child.objectives) if child.objectives != spec.objectives else None,
                budget=child.budget if child.budget != spec.budget else None,
                seed=child.seed if child.seed != spec.seed else None,
            )

        async def send() -> None:
            child = await call_service(client.fork, search.id, body())
            ui.navigate.to(f"/searches/{child.id}")

        dialog_buttons(dialog, "Fork", send, problem)
    dialog.open()

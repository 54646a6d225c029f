"""A network of the front scaled up or down to another bound, within its space."""

from __future__ import annotations

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError, InvalidInput
from nas.core.spoken_names import spoken_name
from nas.explorers.compound_scaling import FAST
from nas.schemas.candidates import FrontSchema
from nas.schemas.scaling import ScaledNetworkSchema
from server.dashboard import formatting
from server.dashboard.elements import code_block, copy_button, div, heading, notice, stat, text
from server.dashboard.lazy_fold import LazyFold
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.service_calls import call_service

_BOUNDS = {"latency": "Latency (ms)", "macs": "MACs", "params": "Parameters"}


class ScalingFold:
    """A folded part of a card, in the slot in which it is made."""

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._search_id = client, search_id
        fold = LazyFold("Larger or smaller: a network scaled to another bound", self._open)
        with fold.body:
            self._form = MemoizedView(self._draw_form, "stack")
            self._problem = problem_view("Not possible")
            self._network = MemoizedView(_draw_network, "stack")

    def show(self, front: FrontSchema, devices: tuple[str, ...]) -> None:
        """Offer the members of a front."""
        self._form.show(tuple(member.arch for member in front.members), devices)

    async def _open(self) -> None:
        """All that is shown is known from the page."""

    def _draw_form(self, archs: tuple[str, ...], devices: tuple[str, ...]) -> None:
        text(
            "Depth, width and resolution are scaled together, width most, as far as the choices of the space allow "
            "(fast compound scaling). What it costs is predicted; how good it is is not known before it is trained.",
            "small muted",
        )
        if not archs:
            notice("info", "No network to scale", "The front has no members yet.")
            return
        with div("form"):
            names = {arch: spoken_name(arch) for arch in archs}
            arch = ui.select(names, value=archs[len(archs) // 2], label="Network").props("outlined dense")
            device = ui.select(list(devices), value=devices[0], label="Device").props("outlined dense")
            device.set_visibility(len(devices) > 1)
            bound = ui.select(_BOUNDS, value="latency", label="Bound on").props("outlined dense")
            limit = ui.number("At most", min=0, format="%g").props("outlined dense")
            alpha = ui.number("Share of width", value=FAST, min=0, max=1, step=0.1, format="%g")
            alpha.props("outlined dense hint='0.8: fast; 0.33: depth, width and resolution alike'")

        async def scale() -> None:
            button.props("loading")
            try:
                if not limit.value:
                    raise InvalidInput("expected a limit above 0")
                width = FAST if alpha.value is None else alpha.value
                call = call_service(
                    self._client.scaled,
                    *(self._search_id, arch.value, limit.value, bound.value),
                    alpha=width,
                    device=device.value,
                )
                self._network.show(await call)
                self._problem.show(None)
            except HwnasError as error:
                self._network.show(None)
                self._problem.show(str(error))
            finally:
                button.props(remove="loading")

        with div("flow"):
            button = ui.button("Scale", icon="open_in_full", on_click=scale).props("outline no-caps")


def _draw_network(network: ScaledNetworkSchema | None) -> None:
    if network is None:
        return
    heading(f"{spoken_name(network.arch)}, not yet trained", 3)
    with div("figures"):
        if network.predicted_ms is not None and network.upper_ms is not None:
            upper = f"95 % upper bound {formatting.quantity(network.upper_ms, 'ms')} on {network.device}"
            stat("Predicted latency", formatting.quantity(network.predicted_ms, "ms"), "predicted", upper)
        times = f"{formatting.significant(network.macs_factor)} times as many"
        stat("MACs", formatting.count(network.macs), "exact", times)
        stat("Parameters", formatting.count(network.params), "exact")
    if network.extrapolated:
        notice("warn", "Nothing like it was measured", "The prediction is outside the domain of the predictor.")
    if network.at_end:
        notice("info", "The space ends here", f"No choice further on for {', '.join(network.at_end)}.")
    text("To have it trained, measured and shown beside a search, add this to its spec:", "small")
    code_block(spec_entry(network))
    copy_button(lambda: spec_entry(network))


def spec_entry(network: ScaledNetworkSchema) -> str:
    """The lines of a spec that score and measure a scaled network as a reference."""
    return f"references:\n  - {network.reference}"

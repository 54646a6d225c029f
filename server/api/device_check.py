"""Checks of an onboarding before it is queued."""

from __future__ import annotations

import numpy as np

from nas.core import registry
from nas.core.access import Principal
from nas.core.arch import every, space_size
from nas.core.errors import Conflict, Forbidden, InvalidData, InvalidSpec, NotFound, UnknownName
from nas.core.ports import SearchSpace
from nas.core.runtimes import runtime_names
from nas.core.spec import FEWEST_ALONE, DeviceSpec
from predictors.families.transfer import Transfer
from predictors.onboarding.from_table import require_usable
from predictors.onboarding.tables import RawTable
from server.api.data_check import report_of
from server.api.validate import build_space
from server.store.json_validation import dump_spec
from server.store.readers.submissions import OnboardingContext
from server.store.store import Store

_LISTED = 1_000  # gene vectors: a space of more has enough networks
MOST_SAMPLES = 2_000  # that an onboarding measures, which takes about an hour; predictors gain little beyond 500


def check_device(spec: DeviceSpec, store: Store, principal: Principal) -> None:
    """Raises UnknownName, InvalidSpec, InvalidData or Conflict for an onboarding that cannot run, and Forbidden for the
    device or the agent of another owner."""
    context = store.queries.onboarding_context(spec)
    if context.owner is not None and not principal.may_change(context.owner):
        raise Forbidden(f"device {spec.name!r} belongs to {context.owner}: choose another name for yours")
    if spec.source in ("worker", "agent") and spec.samples > MOST_SAMPLES:
        raise InvalidSpec(
            f"samples: expected at most {MOST_SAMPLES:,} networks to measure, since each takes seconds; "
            f"got {spec.samples:,}"
        )
    if spec.source == "agent" and context.agent_owner is not None and not principal.may_change(context.agent_owner):
        raise Forbidden(f"the agent of device {spec.name!r} belongs to another owner")
    if spec.source != "agent" and spec.name in context.agent_names:
        raise Conflict(f"device {spec.name!r} has an agent: choose another name, or let the agent measure")
    if spec.source == "agent" and context.agent_profile is None:
        raise InvalidSpec(
            f"{UnknownName('agent', spec.name, context.agent_names)} Start it on the machine that is to be measured: "
            f"HWNAS_TOKEN=TOKEN nas-agent --server ADDRESS --name {spec.name}"
        )
    dump_spec(spec)  # raises for a spec that cannot be stored
    _check_execution(spec, context)
    if spec.predictor not in registry.names("nas.predictors"):
        raise UnknownName("predictor", spec.predictor, registry.names("nas.predictors"))
    report = report_of(spec.data)
    agent = context.agent_profile if spec.source == "agent" else None
    precision = spec.precision if agent is None else agent.protocol.precision
    space = build_space(spec.space, spec.data, report.require_shape(), precision, store, principal)
    report.require_usable()
    _check_source(spec, context)
    if spec.predictor == Transfer.family and spec.source == "roofline":
        raise InvalidSpec("predictor: 'transfer' needs a measured device, and a roofline is not measured")
    if spec.beside_relatives and spec.source in ("worker", "agent"):
        _check_relatives(spec, context)
    elif spec.source in ("worker", "agent"):
        _check_enough_networks(space)
    if spec.table is not None:
        try:
            raw = RawTable.load(store.blobs.get(spec.table.blob))
        except (NotFound, InvalidData) as error:
            raise InvalidSpec(f"table.blob: no table {spec.table.blob[:12]}... was uploaded (lately)") from error
        require_usable(spec, raw, space)


def _check_execution(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises UnknownName for a runtime that is not registered, and InvalidSpec where an agent measures otherwise than
    the spec asks for. Which providers there are only the machine knows."""
    if spec.runtime not in runtime_names():
        raise UnknownName("runtime", spec.runtime, runtime_names())
    if spec.source != "agent" or context.agent_profile is None:
        return
    profile = context.agent_profile
    reported = {
        "runtime": profile.target.runtime,
        "provider": profile.target.provider,
        "batch": profile.protocol.batch,
        "precision": profile.protocol.precision,
    }
    for name, value in reported.items():
        in_spec = getattr(spec, name)
        if in_spec != DeviceSpec.model_fields[name].default and in_spec != value:
            raise InvalidSpec(
                f"{name}: the agent of {spec.name!r} was started with {value!r}, got {in_spec!r}; start another agent, "
                f"under another name, with --{name} {in_spec}"
            )


def _check_enough_networks(space: SearchSpace) -> None:
    """Raises InvalidSpec for a space with fewer networks than a device is learned from."""
    if space_size(space.decisions) > _LISTED:
        return
    networks = len(np.unique(space.canonical(every(space.decisions)), axis=0))
    if networks < FEWEST_ALONE:
        raise InvalidSpec(
            f"space: expected at least {FEWEST_ALONE} different networks to measure, got {networks}; allow finer "
            "choices, for a model of your own a smaller width_multiple or min_width, more levels, or resolutions"
        )


def _check_relatives(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises InvalidSpec for few samples of a device that is not known elsewhere, without another to learn it from."""
    if context.measured_in_other_spaces or any(networks > spec.samples for networks in context.relatives.values()):
        return
    available = ", ".join(f"{name} ({networks})" for name, networks in context.relatives.items()) or "none"
    requirement = (
        f"another device for this space and data with more than {spec.samples} networks, or this one in another space; "
        f"there are: {available}"
    )
    if spec.predictor == Transfer.family:
        problem = f"predictor: {spec.predictor!r} expects"
    else:
        problem = f"samples: expected at least {FEWEST_ALONE}, got {spec.samples}; fewer are enough with"
    raise InvalidSpec(
        f"{problem} {requirement}. Either measure at least {FEWEST_ALONE} networks with the predictor 'auto', or add "
        "such a device first, for which a table of its latencies (source: table) will do"
    )


def _check_source(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises Conflict for a table or roofline that would replace the predictors of a measured device."""
    unmeasured = ("table", "roofline")
    if spec.source in unmeasured and context.source is not None and context.source not in unmeasured:
        raise Conflict(f"device {spec.name!r} is measured on its machine: choose another name for figures of it")

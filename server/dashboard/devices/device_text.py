"""Devices and agents in words."""

from __future__ import annotations

from datetime import datetime

from nas.core.device import DeviceProfile
from nas.schemas.agents import AgentSchema
from nas.schemas.devices import DeviceSchema
from server.dashboard import formatting


def profile_of(device: DeviceSchema) -> DeviceProfile | None:
    """The profile of a device, None before it was profiled."""
    return None if device.profile is None else DeviceProfile.from_json(device.profile)


def processor_text(device: DeviceSchema) -> str:
    """Processor and cores."""
    profile = profile_of(device)
    return "not profiled yet" if profile is None else f"{profile.processor}, {profile.cores} cores"


def runtime_text(device: DeviceSchema) -> str:
    """The runtime with its version."""
    profile = profile_of(device)
    return formatting.MISSING if profile is None else f"{profile.runtime} {profile.runtime_version}"


def agent_text(agent: AgentSchema, now: datetime) -> str:
    """When the agent was last seen, and its queue."""
    last_seen = f"agent last seen {formatting.age(agent.seen_at, now)}"
    queue = f"{formatting.counted(agent.waiting, 'architecture')} waiting" if agent.waiting else "nothing waiting"
    return f"{last_seen}, {queue}{', measuring' if agent.measuring else ''}"

"""Devices and agents in words."""

from __future__ import annotations

from datetime import datetime

from nas.schemas.agents import AgentSchema, QueueEntrySchema
from nas.schemas.devices import DeviceSchema
from server.dashboard import formatting


def processor_text(device: DeviceSchema) -> str:
    """Processor and cores."""
    profile = device.profile
    if profile is None:
        return "not profiled yet"
    return f"{profile.processor}, {formatting.counted(profile.cores, 'core')}"


def runtime_text(device: DeviceSchema) -> str:
    """The runtime with its version, and batch and precision where they are not the usual ones."""
    profile = device.profile
    if profile is None:
        return formatting.MISSING
    protocol = profile.protocol
    batch = [f"batch {protocol.batch}"] if protocol.batch != 1 else []
    precision = [protocol.precision] if protocol.precision != "float32" else []
    return ", ".join([f"{profile.runtime} {profile.runtime_version}", *batch, *precision])


def queue_entry_text(entry: QueueEntrySchema) -> str:
    """A job that waits for a device, and how long."""
    kind = "an onboarding" if entry.kind == "device" else "a search"
    wait = "" if entry.wait_s is None else f", about {formatting.duration(entry.wait_s)} until they are measured"
    return f"{kind} of {entry.owner}: {formatting.counted(entry.networks, 'architecture')}{wait}"


def agent_text(agent: AgentSchema, now: datetime) -> str:
    """When the agent was last seen, and its queue."""
    last_seen = f"agent last seen {formatting.age(agent.seen_at, now)}"
    queue = f"{formatting.counted(agent.waiting, 'architecture')} waiting" if agent.waiting else "nothing waiting"
    return f"{last_seen}, {queue}{', measuring' if agent.measuring else ''}"

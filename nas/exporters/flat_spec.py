"""What trackers of runs store of a package as text: the spec with dotted keys, the architecture, the device."""

from __future__ import annotations

from nas.core.model_package import ModelPackage


def parameters(package: ModelPackage) -> dict[str, str]:
    """The spec of the search that found the network, with dotted keys, and ``architecture``."""
    search = package.manifest.get("search") or {}
    return {"architecture": package.manifest["architecture"], **_flatten(search.get("spec", {}), "")}


def device_name(package: ModelPackage) -> str:
    """The device of the search; empty without one."""
    device = package.manifest["device"]
    return "" if device is None else str(device["name"])


def _flatten(value: object, path: str) -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {k: v for name, part in value.items() for k, v in _flatten(part, f"{path}.{name}".lstrip(".")).items()}
    return {path: str(value)} if path else {}

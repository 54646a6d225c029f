"""Compare an exported network with the same network of a search that was run again from its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas.core.errors import InvalidInput
from nas.core.json_types import JsonObject
from nas.core.metrics import METRICS
from nas.core.model_package import ModelPackage
from nas.core.spec import SearchSpec, parse_spec

Verdict = Literal["same", "close", "diverged", "differs"]
"""``close``: measured again, with overlapping 95 % intervals. ``differs``: circumstances, such as a version, which may
explain what ``diverged``."""


@dataclass(frozen=True)
class Comparison:
    """One thing before and after, as text for people."""

    label: str
    before: str
    after: str
    verdict: Verdict


def read_manifest(path: Path) -> JsonObject:
    """The manifest of a package. Raises InvalidInput for a file that is none."""
    return ModelPackage.read(path).manifest


def spec_of(manifest: JsonObject, path: Path | str) -> SearchSpec:
    """The spec of the search that a network comes from. Raises InvalidInput for packages of versions that kept none,
    InvalidSpec for a spec that this version cannot run."""
    search = manifest.get("search")
    if not isinstance(search, dict) or "spec" not in search:
        raise InvalidInput(f"{path}: its manifest holds no spec, as those of earlier versions do not")
    return parse_spec(SearchSpec, search["spec"])


def compare_manifests(before: JsonObject, after: JsonObject) -> list[Comparison]:
    """What two packages of one architecture have in common: circumstances first, then weights and metrics."""
    return [*_circumstances(before, after), *_results(before, after)]


def _circumstances(before: JsonObject, after: JsonObject) -> Iterator[Comparison]:
    for name in sorted({*before["versions"], *after["versions"]}):
        yield _equal(f"version of {name}", before["versions"].get(name), after["versions"].get(name), "differs")
    yield _equal("data", before["data"]["content_hash"][:16], after["data"]["content_hash"][:16], "differs")
    yield _equal("device", _device(before), _device(after), "differs")


def _results(before: JsonObject, after: JsonObject) -> Iterator[Comparison]:
    yield _equal("supernet", _short(before["search"]["supernet"]), _short(after["search"]["supernet"]), "diverged")
    for name in sorted({*before["files"], *after["files"]} - {"manifest.json", "model_card.md"}):
        hashes = [manifest["files"].get(name, {}).get("sha256") for manifest in (before, after)]
        yield _equal(name, _short(hashes[0]), _short(hashes[1]), "diverged")
    names = [*METRICS, *(name for name in before["metrics"] if name not in METRICS)]
    for name in (n for n in names if n in before["metrics"]):
        yield _metric(name, before, after)


def _metric(name: str, before: JsonObject, after: JsonObject) -> Comparison:
    label = METRICS[name].label if name in METRICS else name
    if name not in after["metrics"]:
        return Comparison(label, _value(before["metrics"][name]), "missing", "diverged")
    old, new = before["metrics"][name], after["metrics"][name]
    if name == "measured_ms":
        intervals = [(m["measurement"]["low_ms"], m["measurement"]["high_ms"]) for m in (before, after)]
        overlap = intervals[0][0] <= intervals[1][1] and intervals[1][0] <= intervals[0][1]
        return Comparison(label, _value(old), _value(new), "close" if overlap else "diverged")
    return _equal(label, _value(old), _value(new), "diverged")


def _equal(label: str, before: object, after: object, otherwise: Verdict) -> Comparison:
    return Comparison(label, _text(before), _text(after), "same" if before == after else otherwise)


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def _value(metric: JsonObject) -> str:
    return f"{metric['value']:.6g} {metric['unit']}".strip()


def _short(sha256: Any) -> str | None:
    return None if sha256 is None else str(sha256)[:12]


def _device(manifest: JsonObject) -> str | None:
    device = manifest["device"]
    return None if device is None else f"{device['name']}, {device['processor']}, {device['runtime_version']}"

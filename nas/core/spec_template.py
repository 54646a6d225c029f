"""A spec with all its keys, their defaults and what they mean, for people to change: ``nas init`` writes it."""

from __future__ import annotations

import yaml
from pydantic import BaseModel

from nas.core.spec import SearchSpec

MEANINGS: dict[str, str] = {
    "name": "a name for people",
    "space": "which networks: `nas spaces` lists them with their presets",
    "space.name": "",
    "space.model": "of a stored model of your own (`nas models list`), whose smaller versions are searched",
    "space.params": "such as {preset: digits}",
    "strategy": "how to search: `nas strategies` lists them with their parameters",
    "strategy.name": "",
    "strategy.params": "such as {steps: 900}",
    "data": "what to learn from: `nas data kinds` lists the formats",
    "data.name": "",
    "data.path": "a file or folder on the machine that runs the search; digits needs none",
    "data.task": "what is learned, and so what labels are",
    "data.seed": "decides the splits into training, validation and test images",
    "data.params": "of the format, such as {max_train: 5000}",
    "device": "what the network will run on: `nas devices list`",
    "objectives": "the quality and 1 to 3 of latency, params, macs, peak_memory, model_bytes, energy",
    "budget": "how much may be spent",
    "budget.evaluations": "architectures whose quality is estimated, by the search and by random search each",
    "budget.verified": "members of the front that are measured on the device, at most",
    "budget.reexplore": "how often it explores again if measured networks have broken their bound",
    "export": "what can be downloaded",
    "export.count": "members of the front, evenly along it; null: all",
    "export.int8": "also as int8",
    "resources": "what the search takes of one machine",
    "resources.cpus": "",
    "resources.gpus": "",
    "resources.ranks": "processes that train one supernet together; null: one for each GPU, or one",
    "resources.memory_gb": "set aside for it; null: not counted",
    "resources.labels": "of machines that it may run on, such as {gpu: a100}",
    "resources.max_hours": "on workers, after which it ends with the front so far; null: no limit",
    "seed": "of everything that is random in the search",
    "supernet": "the id of a finished search whose trained supernet is used: no training",
    "retrain": "train the best networks alone afterwards, such as {epochs: 30}",
    "fleet": "several devices in place of one, such as {devices: [pi, server], front: each}",
    "precision": "of the models that are scored, verified and exported: float32, float16, int8 or mixed",
    "placement": "least shares of a network that a provider must run, such as {NnapiExecutionProvider: 0.9}",
    "references": "networks to compare the front with, such as [{name: ours, genes: [0, 1]}]",
}
"""By key; empty where the name says it."""

_BOUND = "add a bound, such as {name: latency, bound: 0.2}: at most so many ms, of the quality at least so many %"
_HEAD = """# A search. Every key can be left out; then it has the value that stands here.
# Try it:    nas submit --dry-run FILE
# Start it:  nas submit FILE --watch
"""


def commented_spec(spec: SearchSpec) -> str:
    """The spec as YAML with a comment on each key; reading it gives an equal spec."""
    return _HEAD + "".join(f"{line}\n" for line in _lines(spec, "", 0))


def _lines(model: BaseModel, path: str, depth: int) -> list[str]:
    lines, indent = list[str](), "  " * depth
    for name in type(model).model_fields:
        value, key = getattr(model, name), f"{path}{name}"
        comment = f"  # {MEANINGS[key]}" if MEANINGS.get(key) else ""
        if isinstance(value, BaseModel) and any(known.startswith(f"{key}.") for known in MEANINGS):
            lines += [f"{indent}{name}:{comment}", *_lines(value, f"{key}.", depth + 1)]
        elif key == "objectives":
            lines += [f"{indent}{name}:{comment}", f"{indent}  # {_BOUND}"]
            lines += [f"{indent}  - {_flow(objective.model_dump(exclude_none=True))}" for objective in value]
        else:
            lines.append(f"{indent}{name}: {_flow(_plain(value))}{comment}")
    return lines


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return str(text).removesuffix("...\n").strip()

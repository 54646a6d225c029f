"""From which search an exported network comes, so that the search can be run again."""

from __future__ import annotations

from dataclasses import dataclass

from nas.core.json_types import JsonObject
from nas.core.spec import SearchSpec


@dataclass(frozen=True)
class Provenance:
    """The search of a network: its id (empty outside a service), its spec, and the blob (sha256) of the supernet whose
    weights the network has or was chosen by, None where there is none."""

    search: str
    spec: SearchSpec
    supernet: str | None

    def to_json(self) -> JsonObject:
        """As the manifest of a package has it."""
        return {
            "id": self.search,
            "spec": self.spec.model_dump(mode="json"),
            "spec_hash": self.spec.content_hash,
            "strategy": self.spec.strategy.model_dump(mode="json"),
            "supernet": self.supernet,
        }

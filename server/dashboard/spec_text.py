"""A spec as text that can be saved in a file and submitted again."""

from __future__ import annotations

import json
from typing import Literal

import yaml
from pydantic import BaseModel

SpecFormat = Literal["YAML", "JSON"]


def spec_text(spec: BaseModel, spec_format: SpecFormat = "YAML") -> str:
    """The spec with every default written out."""
    record = spec.model_dump(mode="json")
    if spec_format == "JSON":
        return json.dumps(record, indent=2)
    return str(yaml.safe_dump(record, sort_keys=False, default_flow_style=False, allow_unicode=True)).rstrip()

"""YAML as plain values, and JSON, which is a part of it. Refused: a key given twice, aliases, which stand for more than
any memory holds, and texts that are too long."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from nas.core.errors import InvalidSpec

MAX_CHARACTERS = 1_000_000


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises InvalidSpec, with the line where the parser knows it."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidSpec(f"expected at most {MAX_CHARACTERS:,} characters of YAML, got {len(text):,}")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InvalidSpec("YAML aliases (*name) are not taken here: write out what they stand for")
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date that is none
        raise InvalidSpec(f"neither YAML nor JSON: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key, line = self.construct_object(key_node), key_node.start_mark.line + 1
                if key in lines:
                    raise InvalidSpec(f"key {key!r} is given twice, in lines {lines[key]} and {line}: expected it once")
                lines[key] = line
        return super().construct_mapping(node, deep)

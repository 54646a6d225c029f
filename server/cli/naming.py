"""What a text on the command line means: ids may be shortened, and people can say names instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas.client import Client
from nas.core.errors import InvalidInput
from nas.core.spoken_names import ids_named, spoken_name

_FULL_ID = re.compile(r"[0-9a-f]{12}")
_PAGE = 200


def search_id(nas: Client, text: str) -> str:
    """The id of the search that a text means: its id or the beginning of it, its spoken name, or the name of its spec.

    A text that means none is returned as it is, so that the service says so. Raises InvalidInput for several.
    """
    if _FULL_ID.fullmatch(text):
        return text
    matches = nas.searches(match=text, limit=5).items
    return _only("search", text, [(s.id, f"{s.id} ({s.spoken_name}, {s.name!r})") for s in matches])


def onboarding_id(nas: Client, text: str) -> str:
    """As ``search_id``, of an onboarding."""
    if _FULL_ID.fullmatch(text):
        return text
    ids = [o.id for o in nas.onboardings(limit=_PAGE).items]
    return _only("onboarding", text, [(i, f"{i} ({spoken_name(i)})") for i in ids_named(text, ids)])


def candidate_id(text: str, archs: Sequence[str]) -> str:
    """The id of the candidate that a text means, of those given; as ``search_id``."""
    return _only("candidate", text, [(i, f"{i} ({spoken_name(i)})") for i in ids_named(text, archs)])


def _only(concept: str, text: str, meant: Sequence[tuple[str, str]]) -> str:
    if not meant:
        return text
    if len(meant) > 1:
        listed = ", ".join(label for _, label in meant[:5])
        raise InvalidInput(f"{text!r} can mean several {concept}s: {listed}. Give more of the id")
    return meant[0][0]

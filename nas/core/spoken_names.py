"""Names that people can say, made from ids: ``calm-amber-otter``. They stand beside ids and never replace them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MANNERS = _words(
    """
    able bold brave brief bright brisk calm clear clever cool crisp eager early easy fair fast fine firm
    fleet fond frank free fresh gentle glad grand great happy hardy honest humble jolly keen kind large late
    light lively loyal lucky mellow merry mild modest neat noble plain proud prompt quick quiet rapid ready
    rich sharp shy small smart solid steady still sunny sweet swift
    """
)
_COLOURS = _words(
    """
    amber apple ash azure beige birch black blue brass bronze brown cedar cherry clay cobalt copper coral
    cream crimson cyan ebony fern flint gold grape green grey hazel honey indigo iron ivory jade khaki lemon
    lilac lime linen maple maroon mint moss mustard navy oak ochre olive onyx opal orange pearl pink plum
    purple red rose ruby saffron sand scarlet silver slate teal violet
    """
)
_ANIMALS = _words(
    """
    badger bat bear beaver bee bison boar camel cat cod crab crane crow deer dingo dog dove duck eagle eel
    elk falcon finch fox frog gecko goat goose gull hare hawk heron horse ibis jay koala lark lemur lion
    lynx mole moose moth mouse newt otter owl panda perch pike puma quail rabbit raven robin seal shark
    sheep sloth snail stork swan tiger wren
    """
)
WORDS = (_MANNERS, _COLOURS, _ANIMALS)


def spoken_name(identifier: str) -> str:
    """Three words for an id; of 262,144, so that two ids of a list rarely share theirs."""
    digest = hashlib.sha256(identifier.encode()).digest()
    return "-".join(words[byte % len(words)] for words, byte in zip(WORDS, digest, strict=False))


def ids_named(text: str, identifiers: Iterable[str]) -> list[str]:
    """The ids that a text can mean: itself, those with this spoken name, or else those that begin with it."""
    query = text.strip().lower()
    ids = list(dict.fromkeys(identifiers))
    if not query:
        return []
    exact = [i for i in ids if i == query] or [i for i in ids if spoken_name(i) == query]
    return exact or [i for i in ids if i.startswith(query)]

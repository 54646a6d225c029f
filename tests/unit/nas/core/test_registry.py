"""Loading plug-ins by name: what is no plug-in is refused with what was expected."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from nas.core import registry
from nas.core.errors import InvalidPlugin, UnknownName
from tests.support import fakes


def test_plugins_come_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.use_plugins(monkeypatch)
    assert registry.load_space("tiny") is fakes.TINY
    assert registry.load_strategy("plain") is fakes.PLAIN
    assert registry.load_dataset("blank") is fakes.BLANK
    assert registry.load_family("flat") is fakes.FlatPredictor
    with pytest.raises(UnknownName, match=r"unknown strategy 'plane'.*Did you mean 'plain'"):
        registry.load_strategy("plane")


def test_an_entry_point_that_is_no_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.use_plugins(monkeypatch)
    monkeypatch.setitem(fakes.PLUGINS["nas.search_spaces"], "builder", fakes.TinySpace)
    with pytest.raises(InvalidPlugin, match=r"'builder' of nas.search_spaces: expected a SearchSpaceType, got <class"):
        registry.load_space("builder")


def test_an_entry_point_that_cannot_be_imported_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = EntryPoint("gone", "nas.strategies.darts:no_such_strategy", "nas.strategies")
    monkeypatch.setattr(registry, "_entries", lambda group: {"gone": stale})
    with pytest.raises(InvalidPlugin, match=r"strategy 'gone': .*no_such_strategy.* cannot be imported"):
        registry.load_strategy("gone")

"""The registered search spaces that can start from nothing; those of users' models need a parent (``parents.py``)."""

from __future__ import annotations

from nas.core import registry

WITHOUT_PARENT = [name for name in registry.names("nas.search_spaces") if registry.load_space(name).build is not None]

"""Contract tests for plug-ins, for their authors to call from tests of their own.

    from nas.core.ports import ImageShape
    from nas.testing import check_search_space

    def test_my_space_keeps_the_contract() -> None:
        check_search_space("my_space", {"preset": "small"}, ImageShape(3, 32, 32, classes=10))

Each function takes the name under which a plug-in is registered and raises AssertionError at the first broken rule.
This repository runs the same functions over its own registry (``tests/contracts``). Call
``pytest.register_assert_rewrite("nas.testing")`` in ``conftest.py`` for pytest's detailed messages.
"""

from __future__ import annotations

from nas.testing.datasets import check_dataset
from nas.testing.predictors import check_predictor
from nas.testing.search_spaces import check_search_space
from nas.testing.strategies import check_strategy

__all__ = ["check_dataset", "check_predictor", "check_search_space", "check_strategy"]

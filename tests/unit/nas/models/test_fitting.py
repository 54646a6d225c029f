"""Whether models fit data, without a service."""

from __future__ import annotations

import pytest

from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from nas.core.tasks import load_task
from nas.models.fitting import require_fit
from nas.models.stored import ModelSummary


@pytest.mark.parametrize(("channels", "words"), [(1, "1 channel,"), (3, "3 channels,")])
def test_a_misfit_names_both_numbers_of_channels(channels: int, words: str) -> None:
    summary = ModelSummary((channels, 8, 8), ((10,),), 40, 2, 1, True)
    with pytest.raises(InvalidSpec, match=f"'mine' takes images of {words} the data have 4"):
        require_fit("mine", summary, ImageShape(4, 8, 8, 10), load_task("single_label"))


def test_an_input_that_is_no_image_is_written_as_a_shape() -> None:
    with pytest.raises(InvalidSpec, match=r"'mine' has one of \(images, 16\)$"):
        require_fit(
            "mine", ModelSummary((16,), ((10,),), 40, 2, 1, False), ImageShape(1, 8, 8, 10), load_task("single_label")
        )

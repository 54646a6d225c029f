"""Operators that become several of the graph's: each computes what PyTorch computes, for any number of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.execution import build
from nas.models.graph import InvalidModel
from nas.models.intake import report_intake
from nas.models.reading.exported import read_exported
from tests.support.models import SIDE, save_exported

MAX_BYTES = 1 << 28


class Applied(nn.Module):
    """A convolution to 8 channels, and what is done with its output."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.body(x))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "roll": lambda x: torch.roll(x, (-3, 5), (2, 3)),
    "flip": lambda x: torch.flip(x, (3,)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "square": torch.square,
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1.0),
    "logsigmoid": F.logsigmoid,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_translation_computes_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Applied(FUNCTIONS[name]).eval()
    model = read_exported(save_exported(module, tmp_path / "model.pt2"), MAX_BYTES)
    images = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(build(model.graph, model.weights)(images), module(images), atol=1e-5, rtol=1e-4)
    assert report_intake(model.graph).any_batch


@pytest.mark.parametrize("function", [lambda x: torch.roll(x, 1, 0), lambda x: torch.flip(x, (0,))])
def test_images_that_change_places_are_refused(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"roll|flip"):
        read_exported(save_exported(Applied(function), tmp_path / "model.pt2"), MAX_BYTES)

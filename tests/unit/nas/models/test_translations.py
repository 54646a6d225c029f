"""Operators that become several of the graph's: each computes what PyTorch computes, for any number of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.channels import analyse_channels
from nas.models.execution import build
from nas.models.graph import InvalidModel
from nas.models.intake import report_intake
from nas.models.narrowing import narrow
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


class MaskedAttention(nn.Module):
    """Attention in two heads with a bias that is added to its scores, as by relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.qkv = nn.Linear(16, 48)
        self.bias = nn.Parameter(torch.randn(1, 2, 16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        return self.head(y.transpose(1, 2).reshape(-1, 16, 16).mean(1))


def test_attention_with_a_bias_is_written_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = MaskedAttention().eval()
    model = read_exported(save_exported(module, tmp_path / "model.pt2"), MAX_BYTES)
    images = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(build(model.graph, model.weights)(images), module(images), atol=1e-5, rtol=1e-4)
    groups = {group.name: range(1) for group in analyse_channels(model.graph).groups}
    assert groups
    smaller = narrow(model.graph, model.weights, groups)
    assert build(smaller.graph, smaller.weights)(images).shape == (3, 5)


@pytest.mark.parametrize("function", [lambda x: torch.roll(x, 1, 0), lambda x: torch.flip(x, (0,))])
def test_images_that_change_places_are_refused(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"roll|flip"):
        read_exported(save_exported(Applied(function), tmp_path / "model.pt2"), MAX_BYTES)

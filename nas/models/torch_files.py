"""Files of tensors by name: safetensors, and state dicts of torch."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray

from nas.models.graph import InvalidModel

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "state_dict_ema", "ema")


def open_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file. Raises InvalidModel for a file that is none."""
    try:
        return _arrays(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise InvalidModel(f"weights: expected a file of safetensors, got one that is none: {error}") from None


def open_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict, which may be an entry of a checkpoint. With ``weights_only``, torch builds tensors
    and plain containers and refuses everything else. Raises InvalidModel for other files, and for several state
    dicts."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, AttributeError, KeyError) as error:
        raise InvalidModel(
            "weights: expected a state dict of tensors and nothing that runs code when it is opened, as "
            f"torch.save(model.state_dict(), ...) writes it, got {_refused(error)}"
        ) from None
    if not isinstance(content, dict):
        raise InvalidModel(f"weights: expected a state dict, got {type(content).__name__}")
    if tensors := _tensors(content):
        return _arrays(tensors)
    entries = {name: inner for name in _WRAPPERS if (inner := _tensors(content.get(name)))}
    if len(entries) != 1:
        raise InvalidModel(
            f"weights: expected a state dict, or one entry of {', '.join(_WRAPPERS)} that is one, got "
            f"{', '.join(entries) or ', '.join(map(str, content)) or 'an empty dict'}"
        )
    return _arrays(next(iter(entries.values())))


def _refused(error: Exception) -> str:
    """What a file holds instead. Torch's own message advises to trust the file, and is coloured for terminals."""
    if isinstance(error, OSError):
        return f"one that cannot be read: {error}"
    other_object = re.search(r"GLOBAL (\S+)", str(error))
    return f"one with {other_object.group(1)}" if other_object else "a file that is none"


def _tensors(content: object) -> dict[str, torch.Tensor]:
    """The content if it maps names to tensors and nothing else; else nothing."""
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        return {}
    return {str(name): value for name, value in content.items()}


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}

"""Weights from a file on top of a model that was read: safetensors, or a state dict of torch.

A state dict is opened with ``weights_only``, which builds tensors and plain containers alone and runs no code of the
file; this happens in the child that reads the model, under its limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.listing import first_names
from nas.models.graph import InvalidModel, TensorShape
from nas.models.reading.model import ReadModel
from nas.models.torch_files import open_safetensors, open_state_dict

WeightsByName = Mapping[str, NDArray[Any]]
_COUNTERS = "num_batches_tracked"  # of batch norms, which no graph reads
_LISTED = 5  # names in a message


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name, floating point as float32. Raises InvalidModel if it holds none or anything
    else."""
    arrays = open_safetensors(path) if path.suffix == ".safetensors" else open_state_dict(path)
    if not arrays:
        raise InvalidModel("weights: expected tensors by name, got none")
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in arrays.items()}


def with_weights(model: ReadModel, arrays: WeightsByName) -> ReadModel:
    """The model with other values of its parameters. A prefix that all names of the file share, such as ``module.``, is
    left out. Tensors that the model does not have are named in a warning.

    Raises InvalidModel, which names them, for parameters without a tensor and for tensors of another shape.
    """
    needed = {value.name: value.shape for value in model.graph.parameters if value.name not in model.constants}
    named = _without_prefix(arrays, needed)
    if missing := [name for name in needed if name not in named]:
        surplus = [name for name in named if name not in needed and not name.endswith(_COUNTERS)]
        unplaced = f"; without a place in the model are {_listed(surplus)}" if surplus else ""
        raise InvalidModel(
            f"weights: expected a tensor for each of the model's {len(needed)} parameters, got none for "
            f"{_listed(missing)}{unplaced}"
        )
    named = {name: _widened(array, needed.get(name)) for name, array in named.items()}
    if misfits := [
        f"{name} {list(shape)}, got {list(named[name].shape)}"
        for name, shape in needed.items()
        if named[name].shape != shape
    ]:
        raise InvalidModel(f"weights: expected other shapes: {_listed(misfits)}")
    for name in needed:
        if named[name].dtype.kind == "f" and not np.isfinite(named[name]).all():
            raise InvalidModel(f"weights: expected finite numbers, got others in {name}")
    weights = {n: named[n].astype(a.dtype) if n in needed else a for n, a in model.weights.items()}
    unused = [name for name in named if name not in needed and not name.endswith(_COUNTERS)]
    warnings = (f"weights: the model has no parameter for {_listed(unused)}",) if unused else ()
    return replace(model, weights=weights, warnings=(*model.warnings, *warnings))


def _widened(array: NDArray[Any], shape: TensorShape | None) -> NDArray[Any]:
    """Weights (O, C, k) of a convolution over one dimension as (O, C, 1, k), as graphs have them."""
    is_raised = shape is not None and len(shape) == 4 and shape[2] == 1 and array.ndim == 3
    return array[:, :, None, :] if is_raised else array


def _without_prefix(arrays: WeightsByName, needed: Mapping[str, object]) -> WeightsByName:
    """The arrays under the names that fit the most parameters: as they are, or without the first part of each."""
    best: WeightsByName = arrays
    shorter: WeightsByName = arrays
    while all("." in name for name in shorter) and len({name.partition(".")[0] for name in shorter}) == 1:
        shorter = {name.partition(".")[2]: array for name, array in shorter.items()}
        if sum(name in needed for name in shorter) > sum(name in needed for name in best):
            best = shorter
    return best


def _listed(names: Sequence[str]) -> str:
    return first_names(names, _LISTED)

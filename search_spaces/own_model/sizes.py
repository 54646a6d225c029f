"""Sizes of the values and parameters of a narrowed model, for whole populations.

A value varies along at most one dimension, in which it has as many positions as units remain of some widths: a *count*,
which is linear in the kept units. Its other dimensions are those of the parent at the same resolution, for one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.models.graph import ModelGraph, TensorShape
from nas.models.shapes import infer_shapes
from nas.models.units import UnitArray
from search_spaces.own_model.elasticity import ElasticModel, Width

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """A number: ``fixed_R`` by resolution, times each of ``counts``, by position."""

    fixed_R: tuple[int, ...]
    counts: tuple[int, ...] = ()


def product(sizes: Sequence[Size]) -> Size:
    """The product of at least one size."""
    fixed_R = np.prod([size.fixed_R for size in sizes], axis=0, dtype=np.int64)
    return Size(tuple(fixed_R.tolist()), tuple(count for size in sizes for count in size.counts))


class GraphSizes:
    """The sizes of a model for one image at each of ``resolutions``: ``dims`` of every value by name, and ``axes`` of
    every parameter. Raises InvalidModel for a resolution that does not fit the model."""

    def __init__(self, model: ElasticModel, widths: Sequence[Width], resolutions: Sequence[int]) -> None:
        graph, analysis = model.graph, model.analysis
        self._units_W = np.array([len(width.units) for width in widths], dtype=np.int64)
        self._width_of = _width_by_unit(model, widths)
        self._resolutions = len(resolutions)
        self._rows: dict[tuple[int, ...], int] = {}
        shapes_R = [shapes_of_one_image(graph, resolution) for resolution in resolutions]
        self.dims = {
            name: self._dims(analysis.values[name], graph.shapes[name], [shapes[name] for shapes in shapes_R])
            for name in (*(value.name for value in graph.inputs), *(node.name for node in graph.nodes))
        }
        self.axes = {
            value.name: self._axes(model, value.name, value.shape, len(shapes_R)) for value in graph.parameters
        }
        self._coefficients_CW = np.array(list(self._rows), dtype=np.float64).reshape(-1, 1 + len(widths))

    def of(self, name: str) -> tuple[Size, ...]:
        """The size along each dimension of a value, for one image, or of a parameter."""
        return self.dims[name] if name in self.dims else self.axes[name]

    def elements(self, name: str) -> Size:
        """Number of elements of a value, for one image, or of a parameter."""
        return product(self.dims[name] if name in self.dims else (self.number(1), *self.axes[name]))

    def counts(self, kept_NW: Ints) -> Floats:
        """All counts of N networks by how many units they keep of each width, shape (N, C)."""
        return kept_NW @ self._coefficients_CW[:, 1:].T + self._coefficients_CW[:, 0]

    def _dims(self, units: UnitArray, example: TensorShape, shape_R: Sequence[TensorShape]) -> tuple[Size, ...]:
        return tuple(
            self._counted(units, example[dim], [shape[dim] for shape in shape_R])
            if units.shape[dim] > 1
            else Size(tuple(shape[dim] for shape in shape_R))
            for dim in range(len(example))
        )

    def _axes(self, model: ElasticModel, name: str, shape: TensorShape, resolutions: int) -> tuple[Size, ...]:
        units_of = model.analysis.axes
        return tuple(
            self._counted(units_of[name, axis], size, [size] * resolutions)
            if (name, axis) in units_of
            else Size((size,) * resolutions)
            for axis, size in enumerate(shape)
        )

    def _counted(self, units: UnitArray, positions: int, positions_R: Sequence[int]) -> Size:
        """The size along a dimension in which ``units`` change. Where images are merged with channels in one dimension,
        the example has a multiple of the ``positions_R`` of one image."""
        by_width = np.bincount(self._width_of[units].reshape(-1), minlength=1 + len(self._units_W))
        if not by_width[1:].any():
            return Size(tuple(positions_R))
        assert len(set(positions_R)) == 1, "channels do not depend on the resolution"
        for_image = by_width * positions_R[0] // positions
        row = (int(for_image[0]), *(for_image[1:] // self._units_W).tolist())
        return Size((1,) * len(positions_R), (self._rows.setdefault(row, len(self._rows)),))

    def number(self, value: int) -> Size:
        """The same number at every resolution."""
        return Size((value,) * self._resolutions)


def shapes_of_one_image(graph: ModelGraph, resolution: int) -> dict[str, TensorShape]:
    """The shape of every value for one square image. Raises InvalidModel if it does not fit."""
    image = graph.inputs[0]
    return infer_shapes(graph, {image.name: (1, image.shape[1], resolution, resolution)})


def _width_by_unit(model: ElasticModel, widths: Sequence[Width]) -> Ints:
    """By the number of a unit, 1 + the position of its width; 0 for units that always remain."""
    analysis = model.analysis
    last = max(int(units.max()) for units in (*analysis.values.values(), *analysis.axes.values()))
    width_of = np.zeros(1 + last, dtype=np.int64)
    for i, width in enumerate(widths):
        width_of[analysis.numbers[width.group][width.units]] = 1 + i
    return width_of

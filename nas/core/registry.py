"""Plug-ins by name, from entry points. Ours use the same entry points as anyone's."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TypeVar, cast

from nas.core import entry_points
from nas.core.entry_points import Group
from nas.core.errors import InvalidPlugin, InvalidSpec
from nas.core.parent import ParentModel
from nas.core.plugins import DatasetType, Exporter, PredictorFamily, SearchSpaceType, Strategy
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import SpaceSpec

T = TypeVar("T")


def names(group: Group) -> list[str]:
    """The registered names of a group, sorted; imports nothing."""
    return sorted(_entries(group))


def load_space(name: str) -> SearchSpaceType:
    """The search space of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    return _instance("nas.search_spaces", name, SearchSpaceType)


def build_space(spec: SpaceSpec, shape: ImageShape, parent: ParentModel | None = None) -> SearchSpace:
    """The search space of a spec for images of a shape. ``parent``: the model that ``spec.model`` names.

    Raises UnknownName for an unknown space or preset, and InvalidSpec for wrong parameters, for a space of a user's
    model without a model, for a model in any other space, and for images that the space cannot take.
    """
    space = load_space(spec.name)
    if shape.height != shape.width and not space.any_shape:
        others = ", ".join(name for name in names("nas.search_spaces") if load_space(name).any_shape)
        raise InvalidSpec(
            f"space {spec.name!r}: expected square images, got {shape.width}x{shape.height} pixels: give image_size of "
            f"the data one number, or choose a space that takes images of any shape ({others})"
        )
    if space.build_from is not None and (space.build is None or spec.model is not None):
        if parent is None:
            raise InvalidSpec(f"space.model: space {spec.name!r} expects the name of a stored model, got none")
        return space.build_from(spec.params, shape, parent)
    if spec.model is not None or parent is not None:
        raise InvalidSpec(f"space.model: space {spec.name!r} expects no model, got {spec.model!r}")
    if space.build is None:
        raise InvalidPlugin(f"search space {spec.name!r}: expected build or build_from, got neither")
    return space.build(spec.params, shape)


def relaxed_spaces() -> list[str]:
    """The names of the search spaces with a continuous relaxation, sorted."""
    return [name for name in names("nas.search_spaces") if load_space(name).relaxed]


def load_strategy(name: str) -> Strategy:
    """The strategy of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    return _instance("nas.strategies", name, Strategy)


def load_exporter(name: str) -> Exporter:
    """The exporter of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    return _instance("nas.exporters", name, Exporter)


def load_dataset(name: str) -> DatasetType:
    """The data set of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    return _instance("nas.datasets", name, DatasetType)


def load_family(name: str) -> PredictorFamily:
    """The predictor family of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    return cast(PredictorFamily, _instance("nas.predictors", name, type))


def _instance(group: Group, name: str, kind: type[T]) -> T:
    plugin = entry_points.load(group, name, _entries(group))
    if not isinstance(plugin, kind):
        raise InvalidPlugin(f"entry point {name!r} of {group}: expected a {kind.__name__}, got {plugin!r}")
    return plugin


def _entries(group: Group) -> dict[str, EntryPoint]:
    return entry_points.installed(group)

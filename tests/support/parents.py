"""Parents of own-model spaces, from the model definitions of ``tests.support.models``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from nas.core.parent import ParentModel, Preprocessing
from nas.core.ports import ImageShape
from nas.models.reading.exported import read_exported
from nas.models.reading.model import ReadModel
from search_spaces.own_model.space import OwnModel, build
from tests.support.models import CASES, SIDE, make_model, save_exported

MAX_BYTES = 1 << 28
FINE = {"width_multiple": 2, "levels": 4}
"""Parameters that leave something to choose in models of a few channels."""


@cache
def read_case(name: str) -> ReadModel:
    """The graph and weights of a model definition, read from the file that a user would make."""
    case = next(case for case in CASES if case.name == name)
    with TemporaryDirectory() as folder:
        return read_exported(save_exported(make_model(case), Path(folder) / "model.pt2"), MAX_BYTES)


def parent_of(name: str, preprocessing: Preprocessing | None = None) -> ParentModel:
    """A model definition as a stored model."""
    model = read_case(name)
    return ParentModel(name, model.graph.to_json(), lambda: model.weights, preprocessing)


def image_shape(name: str) -> ImageShape:
    """Images that the model takes, with as many classes as its last output has channels."""
    graph = read_case(name).graph
    return ImageShape(3, SIDE, SIDE, graph.shapes[graph.outputs[-1]][1])


def own_model(name: str, **params: object) -> OwnModel:
    """The space of a model definition, with ``FINE`` and other parameters."""
    return build({**FINE, **params}, image_shape(name), parent_of(name))  # type: ignore[dict-item]

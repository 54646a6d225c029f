"""A few digits and small mobile spaces: supernets that train in a moment."""

from __future__ import annotations

from pydantic import JsonValue

from nas.core import registry
from nas.core.ports import Dataset, SearchSpace
from nas.core.spec import DataSpec, SpaceSpec


def few_digits(train: int, **limits: int) -> Dataset:
    """``train`` images to train on; ``limits``: of the other splits, as in a spec."""
    return registry.load_dataset("digits").load(DataSpec(params={"max_train": train, **limits}), 0)


def small_mobile(images: Dataset, **params: JsonValue) -> SearchSpace:
    """Networks for these images, without dropout, and with a narrow head; ``params`` are those of a spec."""
    small: dict[str, JsonValue] = {"preset": "digits", "depths": [1, 2], "final": 16, "hidden": 16, "dropout": 0.0}
    return registry.build_space(SpaceSpec(name="mobilenet_v3", params={**small, **params}), images.shape)

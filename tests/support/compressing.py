"""A tiny search that compresses a model."""

from __future__ import annotations

from functools import cache

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Latency
from nas.core.ports import Dataset, ImageShape, PredictorDefaults, Problem, Split
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from tests.support.models import SIDE
from tests.support.parents import own_model

MODEL = "mobilenet_v2"
"""Five channel groups and two residual blocks."""

NO_TRAINING = SearchSpec(
    space=SpaceSpec(name="own_model", model=MODEL),
    strategy=StrategySpec(name="compress", params={"preset": "no_training", "images": 16}),
    budget=BudgetSpec(evaluations=10, verified=2),
    export=ExportSpec(count=1, int8=False),
)
BEST = NO_TRAINING.model_copy(
    update={
        "strategy": StrategySpec(
            name="compress",
            params={
                "images": 16,
                "levels": 2,
                "fine_tune_epochs": 1,
                "adapt_images": 40,
                "batch_size": 40,
                "checkpoint_s": 1e-9,
            },
        ),
        "retrain": RetrainSpec(networks=1, epochs=1, trials=1, batch_size=40, teacher="parent"),
    }
)


class WorkPredictor(PredictorDefaults):
    """A time that grows with all work of a network, and a bound 10 % above."""

    family = "work"

    def predict(self, features_NF: Floats) -> Latency:
        mean_ms_N = 0.001 + features_NF.sum(axis=1)
        return Latency(mean_ms_N, 1.1 * mean_ms_N)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}


@cache
def images() -> Dataset:
    """Random images of five classes, each a little brighter than the one before."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        labels_N = np.arange(size) % 5
        noise = generator.integers(0, 150, size=(size, 3, SIDE, SIDE))
        return Split((noise + 20 * labels_N[:, None, None, None]).astype(np.uint8), labels_N.astype(np.int64))

    names = tuple("abcde")
    return Dataset("squares", ImageShape(3, SIDE, SIDE, 5), split(80), split(40), split(40), names, "0" * 64)


def compress_problem(spec: SearchSpec = NO_TRAINING, model: str = MODEL) -> Problem:
    """The problem of compressing one of the model definitions."""
    profile = DeviceProfile("rule", "m", "p", 1, "r", "1", "os")
    return Problem(spec, own_model(model), images(), profile, WorkPredictor())

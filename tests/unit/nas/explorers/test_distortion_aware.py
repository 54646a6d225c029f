"""A model of accuracy that knows the distortions of cuts ranks networks better from a few scored ones."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Floats, Genes, sample
from nas.core.metrics import spearman
from nas.core.ports import ImageShape
from nas.explorers.allocation import Distortions
from nas.explorers.distortion_aware import DistortionAwareSpace
from nas.explorers.quality_surrogate import QualitySurrogate
from search_spaces.mobilenet_v3.space import build


def test_distortions_help_where_they_tell_of_accuracy() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    generator = np.random.default_rng(0)
    parent_G = np.array([len(d.choices) - 1 for d in space.decisions])
    by_choice = tuple(np.linspace(generator.random(), 0.0, len(d.choices)) ** 2 for d in space.decisions)
    distortions = Distortions(parent_G, by_choice, {})
    aware = DistortionAwareSpace(space, distortions)
    assert aware.id == space.id

    def accuracy(genes_NG: Genes) -> Floats:
        noise_N = generator.normal(scale=0.3, size=len(genes_NG))
        return np.asarray(98.0 - 4.0 * distortions.total(space.canonical(genes_NG)) + noise_N)

    scored_NG, unseen_NG = (space.canonical(sample(space.decisions, generator, n)) for n in (12, 300))
    accuracy_N, truth_N = accuracy(scored_NG), accuracy(unseen_NG)

    def rank_correlation(of: DistortionAwareSpace | None) -> float:
        surrogate = QualitySurrogate.fit(of or space, scored_NG, accuracy_N)
        return spearman(surrogate.predict(unseen_NG), truth_N)

    assert rank_correlation(aware) > 0.9
    assert rank_correlation(aware) > rank_correlation(None) + 0.1

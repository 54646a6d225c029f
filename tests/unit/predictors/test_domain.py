"""The applicability domain, by its definition; and the networks that it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.domain import ApplicabilityDomain
from predictors.relatives import Relatives, Table, distinct


@pytest.mark.parametrize("networks", [12, 60])  # fewer than features, and more
def test_distances_are_those_of_the_covariance(networks: int) -> None:
    rng = np.random.default_rng(networks)
    features_NF = rng.normal(size=(networks, 20)) @ rng.normal(size=(20, 20))
    others_NF = 3.0 * rng.normal(size=(5, 20))
    domain = ApplicabilityDomain.of(features_NF)
    centre_F, spread_F = features_NF.mean(0), features_NF.std(0)
    z_NF, z_KF = ((rows - centre_F) / spread_F for rows in (features_NF, others_NF))
    precision_FF = np.linalg.inv(z_NF.T @ z_NF + 0.1 * networks * np.eye(20))
    assert domain.distance(others_NF) == pytest.approx(np.einsum("kf,fg,kg->k", z_KF, precision_FF, z_KF))
    assert not domain.is_extrapolation(features_NF).any()
    assert domain.is_extrapolation(100.0 * others_NF).all()


def test_a_network_on_many_known_devices_counts_once() -> None:
    rng = np.random.default_rng(0)
    shared_NF, other_NF = rng.random((8, 3)), rng.random((4, 3))
    tables = [
        Table(features_NF, 1.0 + features_NF.sum(1))
        for features_NF in (shared_NF, shared_NF[::-1], np.vstack([shared_NF[:2], other_NF]))
    ]
    assert (Relatives.learn(tables).networks_MF == np.vstack([shared_NF, other_NF])).all()
    assert distinct(np.array([[1.0], [2.0], [1.0]])) == [0, 1]

"""What is known of a device before it is measured in a space: other devices there, and itself elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Genes
from nas.core.ports import SearchSpace
from predictors.families.transfer import choose
from predictors.layer_times import LayerTimes
from predictors.onboarding.selection import d_optimal
from predictors.relatives import Relatives, Table
from predictors.storage import DeviceMeasurements, decisions_key
from predictors.views import FeatureLayout, network_features


@dataclass(frozen=True)
class Knowledge:
    """``tables`` of networks with the same decisions, measured on other devices or on this one with other images; and
    what the device takes for ``layers`` of other spaces, None if it was measured in none."""

    tables: tuple[Table, ...] = ()
    layers: LayerTimes | None = None

    def __bool__(self) -> bool:
        return bool(self.tables) or self.layers is not None

    def beside(self, networks: int) -> Knowledge:
        """What is of use to a device with so many networks: tables of more."""
        return Knowledge(tuple(t for t in self.tables if len(t.latency_ms_N) > networks), self.layers)


NO_KNOWLEDGE = Knowledge()


def knowledge(space: SearchSpace, measurements: Sequence[DeviceMeasurements], samples: int) -> Knowledge:
    """What is known beside ``samples`` networks of a new device: tables of more networks than these, and layers."""
    space = space.unrestricted
    key = decisions_key(space)
    same_decisions = [device for device in measurements if device.decisions in ("", key)]
    works = [device.work for device in measurements if device.decisions not in ("", key) and device.work is not None]
    layers = LayerTimes.learn(works) if works else None
    tables = [device.table(space, device.device, layers) for device in same_decisions if len(device.genes_NG) > samples]
    return Knowledge(tuple(tables), layers)


def informative(space: SearchSpace, background: Knowledge, pool_NG: Genes, n: int) -> Genes:
    """The ``n`` networks of a pool whose latencies are most informative about all others."""
    layout = FeatureLayout.of(space, background.layers)
    features_NF = network_features(space, pool_NG, background.layers)
    if background.tables:
        return pool_NG[choose(Relatives.learn(background.tables, layout.additive_C), features_NF, n)]
    return np.asarray(pool_NG[d_optimal(features_NF[:, layout.views["counts"]], n)])

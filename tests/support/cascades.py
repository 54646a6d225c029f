"""Exported networks of a search, of which cascades are made."""

from __future__ import annotations

from collections.abc import Iterable

from nas.core.arch import Arch
from nas.core.ports import Problem
from nas.core.provenance import Provenance
from nas.packaging import package
from nas.training.pipeline import Pipeline


def untrained_packages(searched: Problem, archs: Iterable[Arch]) -> dict[Arch, bytes]:
    """The zip files of networks that have learned nothing."""
    pipeline, net = Pipeline(searched.data, "cpu"), searched.space.supernet(0)
    provenance = Provenance("a-search", searched.spec, None)
    archives = {}
    for arch in archs:
        archives[arch], _ = package(
            net.subnet(arch).eval(),
            arch,
            searched.space,
            searched.data,
            mean=pipeline.mean,
            std=pipeline.std,
            seed=0,
            metrics={},
            int8=False,
            provenance=provenance,
        )
    return archives

"""Exported networks as people download them."""

from __future__ import annotations

import io
import json
import zipfile

from nas.core.model_package import ModelPackage
from nas.core.ports import Problem
from nas.core.provenance import Provenance
from nas.packaging import package
from nas.training import samplers
from nas.training.pipeline import Pipeline


def exported(searched: Problem) -> ModelPackage:
    """The largest network, which has learned nothing."""
    pipeline, arch = Pipeline(searched.data, "cpu"), samplers.largest(searched.space)
    archive, _ = package(
        searched.space.supernet(0).subnet(arch).eval(), arch, searched.space, searched.data,
        mean=pipeline.mean, std=pipeline.std, seed=0, metrics={}, int8=False,
        provenance=Provenance("a-search", searched.spec, None),
    )  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        contents = {name: files.read(name) for name in files.namelist()}
    return ModelPackage(json.loads(contents["manifest.json"]), contents)

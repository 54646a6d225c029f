"""A downloaded vision transformer with fewer tokens from block to block (``token_compression``), as a package."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from nas import exported_run
from nas.cascade_package import Clock
from nas.core import registry
from nas.core.arch import Arch
from nas.core.errors import DataChanged, InvalidInput
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset
from nas.core.provenance import Provenance
from nas.core.spec import SearchSpec, SpaceSpec
from nas.export import open_session
from nas.packaging import package
from nas.reproduction import spec_of
from search_spaces.elastic_vit.network import VisionTransformer
from search_spaces.elastic_vit.space import ElasticVit
from search_spaces.elastic_vit.token_compression import (
    CompressedVisionTransformer,
    KeptTokens,
    RateRecipe,
    compressed_block_macs,
    full_block_macs,
    learned_rates,
)

_MOST_IMAGES = 10_000  # of training, from which rates are learned
_TIMED_IMAGES = 64


@dataclass(frozen=True)
class TokenReport:
    """``kept`` of each block; MACs of the blocks as a share of those without compression; accuracies on test images in
    %, and the median milliseconds of an image, of the model before and after."""

    kept: tuple[KeptTokens, ...]
    macs_share: float
    accuracies: tuple[float, float]
    ms: tuple[float, float]


def read_model(path: Path) -> tuple[ModelPackage, SearchSpec, Dataset]:
    """A downloaded model, the spec of its search and its data. Raises InvalidInput for a file that is none, and
    DataChanged where the data are no longer those."""
    downloaded = ModelPackage.read(path)
    spec = spec_of(downloaded.manifest, path)
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    if data.content_hash != downloaded.manifest["data"]["content_hash"]:
        raise DataChanged("prune-tokens: the data of the search have changed since: expected those of the model")
    return downloaded, spec, data


def read_network(downloaded: ModelPackage, data: Dataset) -> tuple[VisionTransformer, ElasticVit, Arch]:
    """The network of a package, its space and its architecture. Raises InvalidInput for one of another space."""
    description = json.loads(downloaded.files["architecture.json"])
    if description["space"] != "elastic_vit":
        raise InvalidInput(f"prune-tokens: expected a network of elastic_vit, got one of {description['space']}")
    params = {key: value for key, value in description["params"].items() if key != "start"}  # its weights are here
    space = registry.build_space(SpaceSpec(name="elastic_vit", params=params), data.shape)
    assert isinstance(space, ElasticVit)
    arch = Arch(space.id, tuple(description["genes"]))
    with torch.device("meta"):
        network = VisionTransformer(space.network(arch), space.config.dropout)
    network.load_state_dict(safetensors.torch.load(downloaded.files["weights.safetensors"]), assign=True)
    return network.eval(), space, arch


def compress_tokens(
    downloaded: ModelPackage,
    spec: SearchSpec,
    data: Dataset,
    share: float,
    *,
    recipe: RateRecipe = RateRecipe(),
    clock: Clock = time.perf_counter,
) -> tuple[bytes, TokenReport]:
    """The package of a network that goes on with fewer tokens, so that its blocks take ``share`` of their MACs, and
    what that does on test images. Raises InvalidInput for a network of another space, a share that is none, and tasks
    other than one class per image."""
    if not 0 < share < 1:
        raise InvalidInput(f"prune-tokens: expected a share of MACs between 0 and 1, got {share:g}")
    if spec.task.labels != "class":
        raise InvalidInput(
            f"prune-tokens: expected a model that gives one class an image, got the task {spec.task.name!r}"
        )
    network, space, arch = read_network(downloaded, data)
    preprocessing = downloaded.manifest["preprocessing"]
    mean, std = preprocessing["mean"], preprocessing["std"]
    rows = min(len(data.train), _MOST_IMAGES)
    x_NCHW = exported_run.resize(data.train.images_NCHW[:rows], preprocessing["height"], preprocessing["width"])
    mean_C11, std_C11 = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    label_N = torch.from_numpy(data.train.labels[:rows])
    kept = learned_rates(network, (torch.from_numpy(x_NCHW) - mean_C11) / std_C11, label_N, share, recipe, spec.seed)
    archive, checked = package(
        CompressedVisionTransformer(network, kept).eval(),
        arch,
        space,
        data,
        mean=mean,
        std=std,
        seed=spec.seed,
        metrics={},
        int8=False,
        provenance=Provenance(downloaded.manifest["search"]["id"], spec, None),
        changes={"kept_tokens": [[k.pruned, k.merged] for k in kept]},
    )
    models = downloaded.files["model.onnx"], zipfile.ZipFile(io.BytesIO(archive)).read("model.onnx")
    before, after = (_typical_ms(model, x_NCHW, clock) for model in models)
    share_reached = compressed_block_macs(network, kept) / float(full_block_macs(network))
    accuracies = downloaded.manifest["metrics"][checked.task.tested]["value"], checked.onnx.quality
    return archive, TokenReport(tuple(kept), share_reached, accuracies, (before, after))


def _typical_ms(model: bytes, x_NCHW: NDArray[np.float32], clock: Clock) -> float:
    """The median of single images on one thread; the first run is a warm-up."""
    session, ms = open_session(model), list[float]()
    for x_CHW in x_NCHW[: _TIMED_IMAGES + 1]:
        started_s = clock()
        session.run(None, {"image": x_CHW[None]})
        ms.append(1e3 * (clock() - started_s))
    return float(np.median(ms[1:]))

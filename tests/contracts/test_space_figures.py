"""Costs, features, graph encodings and layers of every space, compared bit by bit with recorded values.

Stored predictors were fitted to these features, and stored layer tables are keyed by these layers: none may change.
``python -m tests.contracts.test_space_figures`` records a new space; an existing record is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import as_archs, choice_counts, sample
from nas.core.ports import ImageShape
from predictors.families.layer_lut import layer_key

RECORD = Path(__file__).parent / "data" / "space_figures.json"
CASES: dict[str, tuple[str, dict[str, Any], ImageShape]] = {
    "hybrid_digits": ("hybrid", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "hybrid_imagenet": ("hybrid", {"preset": "imagenet"}, ImageShape(3, 224, 224, 1000)),
    "hybrid_digits_operators": ("hybrid", {"preset": "digits-operators"}, ImageShape(1, 8, 8, 10)),
    "hybrid_cifar_operators": ("hybrid", {"preset": "cifar-operators"}, ImageShape(3, 32, 32, 10)),
    "vit_digits": ("elastic_vit", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "vit_deit_tiny": ("elastic_vit", {"preset": "deit-tiny"}, ImageShape(3, 224, 224, 1000)),
    "mobilenet_digits": ("mobilenet_v3", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "mobilenet_odd": (
        "mobilenet_v3",
        {"preset": "digits", "resolutions": [5, 7], "stem_stride": 2, "depths": [1, 2]},
        ImageShape(3, 8, 8, 7),
    ),
    "mobilenet_cifar": ("mobilenet_v3", {"preset": "cifar"}, ImageShape(3, 32, 32, 100)),
    "mobilenet_imagenet": ("mobilenet_v3", {"preset": "imagenet"}, ImageShape(3, 224, 224, 1000)),
    "nb201_digits": ("nas_bench_201", {"preset": "digits"}, ImageShape(3, 9, 9, 10)),
    "nb201_benchmark": ("nas_bench_201", {"preset": "benchmark"}, ImageShape(3, 32, 32, 10)),
    "darts_digits": ("darts_cell", {"preset": "digits"}, ImageShape(1, 9, 9, 10)),
    "darts_search": ("darts_cell", {"preset": "search"}, ImageShape(3, 32, 32, 10)),
    "darts_evaluation": ("darts_cell", {"preset": "evaluation"}, ImageShape(3, 30, 30, 5)),
    "free_gold": ("free_cell", {"preset": "gold"}, ImageShape(3, 32, 32, 10)),
    "free_snas": ("free_cell", {"preset": "snas"}, ImageShape(1, 9, 9, 10)),
    "attentive_digits": ("attentive_nas", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "attentive_cifar": ("attentive_nas", {"preset": "cifar"}, ImageShape(3, 32, 32, 100)),
    "attentive_imagenet": ("attentive_nas", {"preset": "imagenet"}, ImageShape(3, 224, 224, 1000)),
    "fbnet_digits": ("fbnet", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "fbnet_cifar": ("fbnet", {"preset": "cifar"}, ImageShape(3, 32, 32, 100)),
    "fbnet_imagenet": ("fbnet", {"preset": "imagenet"}, ImageShape(3, 224, 224, 1000)),
    "elastic_resnet_digits": ("resnet", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "elastic_resnet_cifar10": ("resnet", {"preset": "cifar10"}, ImageShape(3, 32, 32, 10)),
    "elastic_resnet_imagenet": ("resnet", {"preset": "imagenet"}, ImageShape(3, 224, 224, 1000)),
    "elastic_resnet_ofa": ("resnet", {"preset": "ofa-resnet50"}, ImageShape(3, 224, 224, 1000)),
    "resnet_digits": ("resnet20_downsampling", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "resnet_odd": ("resnet20_downsampling", {"channels": 4, "blocks": 2}, ImageShape(3, 9, 7, 5)),
    "resnet_resnet20": ("resnet20_downsampling", {"preset": "resnet20"}, ImageShape(3, 32, 32, 10)),
}


def figures(name: str, params: dict[str, Any], shape: ImageShape) -> dict[str, Any]:
    """Digests over 100 architectures, and the costs of the smallest and the largest of them in full."""
    space: Any = registry.load_space(name).build(params, shape)
    counts = choice_counts(space.decisions)
    sampled_genes_NG = sample(space.decisions, np.random.default_rng(5), 98)
    genes = space.canonical(np.concatenate([np.stack([0 * counts, counts - 1]), sampled_genes_NG]))
    archs = as_archs(space.id, genes)
    costs = {key: value.tolist() for key, value in space.costs(genes).items()}
    values = {
        "id": space.id,
        "decisions": [[d.name, list(d.choices)] for d in space.decisions],
        "costs": costs,
        "features": space.features(genes).tolist(),
        "layers": [[layer_key(layer) for layer in space.layers(arch)] for arch in archs],
        "layer_names": [[layer.name for layer in space.layers(arch)] for arch in archs],
        "input_shapes": [space.input_shape(arch) for arch in archs],
    }
    if space.graph_encoding is not None:
        graph = space.graph_encoding.graph
        values["graph"] = [graph.places, graph.operations, graph.edges, graph.place_C, graph.operation_C]
        values["graph_presence"] = graph.presence_C
        values["graph_columns"] = space.graph_encoding.columns(genes).tolist()
    if name == "nas_bench_201":
        values["accuracy_features"] = space.accuracy_features(genes).tolist()
    digests = {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16] for key, value in values.items()}
    return {"ends": {key: value[:2] for key, value in costs.items()}, "digests": digests}


@pytest.mark.parametrize("case", CASES)
def test_figures_equal_the_record(case: str) -> None:
    assert figures(*CASES[case]) == json.loads(RECORD.read_text())[case]


if __name__ == "__main__":
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record |= {case: figures(*CASES[case]) for case in CASES if case not in record}
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

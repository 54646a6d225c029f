"""What every search space must fulfil."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from nas.core import registry
from nas.core.arch import Genes, as_archs, check_genes, choice_counts, sample
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.ports import ImageShape, RelaxedSpace, SearchSpace, is_relaxed
from nas.core.spec import SpaceSpec
from nas.testing.errors import assert_raises


def check_search_space(name: str, params: Mapping[str, JsonValue], shape: ImageShape, supernet: bool = True) -> None:
    """Check identity, canonical genes, costs, features, layers and errors of a space, and its supernet with torch.

    Args:
        name: Name under which the space is registered.
        params: Parameters of the space, as in a spec.
        shape: Shape of the images.
        supernet: Build supernets and compare subnets with them; takes seconds for a large space.
    """
    check_identity(name, params, shape)
    check_errors(name, params, shape)
    space = build_space(name, params, shape)
    check_canonical(space)
    check_costs(space)
    if is_relaxed(space):
        check_relaxation(space)
    if supernet:
        check_subnets(space)
        if is_relaxed(space):
            check_mixing(space)


def build_space(name: str, params: Mapping[str, JsonValue], shape: ImageShape) -> SearchSpace:
    """The space of a registered name."""
    return registry.build_space(SpaceSpec(name=name, params=dict(params)), shape)


def extremes_and_random(space: SearchSpace, n: int) -> Genes:
    """Canonical genes of the smallest network, the largest one and n - 2 random ones."""
    counts = choice_counts(space.decisions)
    extremes = np.stack([np.zeros_like(counts), counts - 1])
    return space.canonical(np.concatenate([extremes, sample(space.decisions, np.random.default_rng(1), n - 2)]))


def check_identity(name: str, params: Mapping[str, JsonValue], shape: ImageShape) -> None:
    """The id is a function of the name, the parameters and the shape; decisions and their choices are distinct."""
    kind, space = registry.load_space(name), build_space(name, params, shape)
    assert kind.name == space.name == name
    assert kind.summary.strip()
    assert kind.cells == space.cells, "a kind of space has the cells of its spaces"
    assert kind.relaxed == (space.relaxation is not None), "a kind of space says whether its spaces have a relaxation"
    assert space.id == build_space(name, params, shape).id
    more_classes = ImageShape(shape.channels, shape.height, shape.width, classes=shape.classes + 1)
    assert space.id != build_space(name, params, more_classes).id
    assert build_space(name, space.params, shape).id == space.id, "params must determine the space"
    assert len({d.name for d in space.decisions}) == len(space.decisions)
    for decision in space.decisions:
        assert len(set(decision.choices)) == len(decision.choices) >= 1


def check_canonical(space: SearchSpace) -> None:
    """Canonical genes are valid, idempotent, and describe the same network."""
    genes = sample(space.decisions, np.random.default_rng(0), 200)
    canonical = space.canonical(genes)
    check_genes(space.decisions, canonical)
    assert (space.canonical(canonical) == canonical).all()
    for key, cost in space.costs(genes).items():
        assert (space.costs(canonical)[key] == cost).all(), key
    assert (space.features(genes) == space.features(canonical)).all()
    if space.features_as_written is not None:
        assert (space.features_as_written(canonical) == space.features(canonical)).all()
    if space.costs_as_written is not None:
        for key, cost in space.costs_as_written(canonical).items():
            assert (space.costs(canonical)[key] == cost).all(), key
    for compared in (*space.references.values(), *space.published.values()):
        check_genes(space.decisions, np.array([compared]))
    if space.pretrained_genes is not None:
        assert (space.canonical(np.array([space.pretrained_genes])) == space.pretrained_genes).all()
    for a, b in zip(as_archs(space.id, genes[:10]), as_archs(space.id, canonical[:10]), strict=True):
        assert space.layers(a) == space.layers(b)


def check_costs(space: SearchSpace) -> None:
    """Costs are sums over layers, layers are connected, and the first choices make the smallest network."""
    genes = extremes_and_random(space, 40)
    costs, features = space.costs(genes), space.features(genes)
    assert features.shape[0] == 40
    assert np.isfinite(features).all()
    for i, arch in enumerate(as_archs(space.id, genes)):
        layers = space.layers(arch)
        assert costs["params"][i] == sum(layer.params for layer in layers) > 0
        assert costs["macs"][i] == sum(layer.macs for layer in layers) > 0
        assert layers[0].in_shape == space.input_shape(arch)
        assert layers[-1].out_shape[0] == space.shape.classes
        for k, layer in enumerate(layers[1:], start=1):
            read = {layers[0].in_shape[0], *(before.out_shape[0] for before in layers[:k])}
            assert layer.in_shape[0] in read, layer
    params, macs = costs["params"], costs["macs"]
    assert params[0] == params.min() <= params.max() == params[1]  # or all equal
    assert macs[0] == macs.min() < macs.max() == macs[1]


def check_errors(name: str, params: Mapping[str, JsonValue], shape: ImageShape) -> None:
    """Unknown parameters raise InvalidSpec that names them, unknown presets UnknownName."""
    unknown = {**params, "no_such_parameter": 1}
    assert_raises(InvalidSpec, lambda: build_space(name, unknown, shape), "no_such_parameter")
    for preset in ("no_such_preset", ["no_such_preset"]):
        assert_raises(UnknownName, lambda preset=preset: build_space(name, {"preset": preset}, shape))  # type: ignore[misc]


def check_relaxation(space: RelaxedSpace) -> None:
    """Networks that are derived from tables of scores are canonical, are derived from their own tables, and have no
    operation that their edge lacks."""
    relaxation, generator = space.relaxation, np.random.default_rng(0)
    assert 1 in space.partials
    assert relaxation.mask.shape == (len(relaxation.edges), len(relaxation.operations))
    assert relaxation.mask.any(axis=1).all()
    for _ in range(50):
        genes_G = space.discretise(generator.gumbel(size=relaxation.shape))
        assert (space.canonical(genes_G[None])[0] == genes_G).all()
        table_EO = space.table(genes_G)
        assert not (table_EO > relaxation.mask).any()
        assert (space.discretise(table_EO) == genes_G).all()


def check_mixing(space: RelaxedSpace) -> None:
    """A relaxation whose weights are 0 and 1 computes what the supernet computes at their network; with other weights
    all operations of all edges have a part in it."""
    import torch

    torch.set_num_threads(1)
    net, generator = space.supernet(seed=3).train(), np.random.default_rng(0)
    for _ in range(3):
        table_EO = space.table(space.discretise(generator.gumbel(size=space.relaxation.shape)))
        (arch,) = as_archs(space.id, space.discretise(table_EO)[None])
        x_BCHW = torch.randn(4, *space.input_shape(arch), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.manual_seed(0)  # dropout
            mixed = net.mix(x_BCHW, torch.from_numpy(table_EO).float())
            torch.manual_seed(0)
            torch.testing.assert_close(mixed, net(x_BCHW, arch), rtol=1e-4, atol=1e-5)
    weights_EO = torch.from_numpy(space.relaxation.uniform).float().requires_grad_()
    (gradient_EO,) = torch.autograd.grad(net.mix(x_BCHW, weights_EO).logsumexp(1).sum(), weights_EO)
    learns = space.relaxation.mask & space.relaxation.real
    assert gradient_EO.isfinite().all()
    assert (gradient_EO[torch.from_numpy(learns)] != 0).any()


def check_subnets(space: SearchSpace, *, inherits: bool = False) -> None:
    """A subnet has the counted parameters and computes what the supernet computes at its architecture. ``inherits``:
    the weights are those of a parent model."""
    import torch

    torch.set_num_threads(1)
    net = space.supernet(seed=3).train()
    for arch in as_archs(space.id, extremes_and_random(space, 6)):
        x_BCHW = torch.randn(4, *space.input_shape(arch), generator=torch.Generator().manual_seed(0))
        subnet = net.subnet(arch).train()
        assert sum(p.numel() for p in subnet.parameters()) == space.costs(np.array([arch.genes]))["params"][0]
        with torch.no_grad():
            outputs = []
            for module, inputs in ((net, (x_BCHW, arch)), (subnet, (x_BCHW,)), (net, (x_BCHW, arch))):
                torch.manual_seed(0)  # dropout
                output = module(*inputs)
                outputs.append(output[-1] if isinstance(output, tuple) else output)
        assert outputs[0].shape[:2] == (4, space.shape.classes)
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs[0], outputs[2], rtol=0, atol=0)
    other = space.supernet(seed=4).state_dict()
    changes = any(not torch.equal(v, other[k]) for k, v in net.state_dict().items())
    assert changes != inherits, "the seed must matter, unless weights are those of a parent"

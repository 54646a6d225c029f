"""The networks that a front is compared with: those that a space and a spec name, of the space or of others."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from nas.core import registry
from nas.core.arch import Arch, as_archs, check_genes
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.plugins import check_outputs
from nas.core.ports import ImageShape, Problem, SearchSpace
from nas.core.regularisers import regularisers
from nas.core.spec import ReferenceSpec, SearchSpec, SpaceSpec

_GENES = re.compile(r"\d+(\s*,\s*\d+)+")
_NAME = re.compile(r"[\w .\-]+")


def reference_archs(spec: SearchSpec, space: SearchSpace) -> dict[str, Arch]:
    """The reference networks by name: those of the space, then those of the spec; of equal ones the first. Raises
    InvalidSpec for genes that are none of their space, for a name that is used twice, and for a network of another
    space that this search could not train; UnknownName for a name without genes that is no published network."""
    networks = {name: (space, genes) for name, genes in space.references.items()}
    for reference in spec.references:
        if reference.name in networks:
            raise InvalidSpec(f"references: expected each name once, got {reference.name!r} twice")
        networks[reference.name] = _network(reference, spec, space)
    archs: dict[str, Arch] = {}
    for name, (own_space, genes) in networks.items():
        arch = _arch(name, own_space, genes)
        if arch not in archs.values():
            archs[name] = arch
    return archs


def space_of(problem: Problem, arch: Arch) -> SearchSpace:
    """The space of a network of a search: that of the search but for references of other spaces."""
    return reference_space(problem.spec, problem.space, arch)


def is_of_another_space(problem: Problem, arch: Arch) -> bool:
    """Whether a network is a reference that is no network of the search's space."""
    return space_of(problem, arch) is not problem.space


def reference_space(spec: SearchSpec, space: SearchSpace, arch: Arch) -> SearchSpace:
    """The space of a network among those of the references of a spec, else the ``space`` of the search."""
    if arch.space != space.id:
        for reference in spec.references:
            own_space, _ = _network(reference, spec, space)
            if own_space.id == arch.space:
                return own_space
    return space


def _published_elsewhere() -> dict[str, SpaceSpec]:
    """The spaces of networks of the literature, by the names of the networks."""
    types = [registry.load_space(name) for name in registry.names("nas.search_spaces")]
    return {
        network: SpaceSpec.model_validate({"name": kind.name, "params": dict(params)})
        for kind in types
        for network, params in kind.published.items()
    }


def _network(reference: ReferenceSpec, spec: SearchSpec, space: SearchSpace) -> tuple[SearchSpace, tuple[int, ...]]:
    """A reference's space and genes."""
    own_space = _space(reference, space)
    if own_space is not space:
        _check_trainable(reference.name, spec, own_space)
    if reference.genes is not None:
        return own_space, reference.genes
    if reference.network is not None:
        return own_space, named_genes(reference.network, own_space)
    if reference.name not in own_space.published:
        elsewhere = () if reference.space is not None else _published_elsewhere()
        raise UnknownName("published network", reference.name, {*own_space.published, *space.published, *elsewhere})
    return own_space, own_space.published[reference.name]


def _space(reference: ReferenceSpec, space: SearchSpace) -> SearchSpace:
    if reference.space is not None:
        built = _built_from(reference, reference.space, space.shape)
        return space if built.id == space.id else built
    if reference.genes is not None or reference.network is not None or reference.name in space.published:
        return space
    named = _published_elsewhere().get(reference.name)
    return space if named is None else _built(named.model_dump_json(), space.shape)


def _built_from(reference: ReferenceSpec, named: SpaceSpec, shape: ImageShape) -> SearchSpace:
    if named.model is not None or registry.load_space(named.name).build is None:
        raise InvalidSpec(
            f"references: {reference.name!r}: expected a space that starts from no model of yours, got {named.name!r}"
        )
    return _built(named.model_dump_json(), shape)


@lru_cache(maxsize=64)
def _built(spec_json: str, shape: ImageShape) -> SearchSpace:
    return registry.build_space(SpaceSpec.model_validate_json(spec_json), shape)


def _check_trainable(name: str, spec: SearchSpec, own_space: SearchSpace) -> None:
    """A network of another space has no part in the weights of a search: it is trained alone or not at all."""
    if spec.retrain is None:
        raise InvalidSpec(
            f"references: {name!r} is a network of {own_space.name}, for which this search has no weights: expected "
            "`retrain`, which trains it from scratch"
        )
    if spec.fleet is not None:
        raise InvalidSpec(
            f"references: {name!r} is a network of {own_space.name}, whose latency nothing predicts: expected one "
            f"device, got a fleet of {len(spec.fleet.devices)}"
        )
    check_outputs(spec, own_space)
    regularisers(spec.retrain, own_space)


def _arch(name: str, own_space: SearchSpace, genes: tuple[int, ...]) -> Arch:
    genes_1G = np.array([genes], dtype=np.int64)
    try:
        check_genes(own_space.decisions, genes_1G)
    except InvalidInput as error:
        raise InvalidSpec(f"references: {name!r}: {error}") from error
    [arch] = as_archs(own_space.id, own_space.unrestricted.canonical(genes_1G))
    return arch


def named_genes(text: str, space: SearchSpace) -> tuple[int, ...]:
    """The genes of a network by its published name, by genes with commas between them, or as the literature writes
    networks of the space. Raises InvalidSpec for genes and notations that are none of the space, UnknownName for
    anything else."""
    name = text.strip()
    if name in space.published:
        return space.published[name]
    if _GENES.fullmatch(name):
        genes = tuple(int(gene) for gene in name.split(","))
        if len(genes) != len(space.decisions):
            raise InvalidSpec(
                f"a network of {len(genes)} genes is none of {space.name} with these parameters: expected "
                f"{len(space.decisions)} genes, one for each decision"
            )
        try:
            check_genes(space.decisions, np.array([genes], dtype=np.int64))
        except InvalidInput as error:
            raise InvalidSpec(str(error)) from error
        return genes
    if _NAME.fullmatch(name):
        raise UnknownName(f"published network of {space.name}", name, space.published)
    try:
        return space.from_notation(name)
    except InvalidInput as error:
        raise InvalidSpec(str(error)) from error

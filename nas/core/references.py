"""The networks that a front is compared with: those that a space and a spec name."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Arch, as_archs, check_genes
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import SearchSpace
from nas.core.spec import SearchSpec


def reference_archs(spec: SearchSpec, space: SearchSpace) -> dict[str, Arch]:
    """The reference networks by name: those of the space, then those of the spec; of equal ones the first. Raises
    InvalidSpec for genes that are none of the space and for a name that is used twice, UnknownName for one without
    genes that is no published network of the space."""
    genes_by_name = dict(space.references)
    for reference in spec.references:
        if reference.name in genes_by_name:
            raise InvalidSpec(f"references: expected each name once, got {reference.name!r} twice")
        genes_by_name[reference.name] = reference.genes or _published(reference.name, space)
    archs: dict[str, Arch] = {}
    for name, genes in genes_by_name.items():
        genes_1G = np.array([genes], dtype=np.int64)
        try:
            check_genes(space.decisions, genes_1G)
        except InvalidInput as error:
            raise InvalidSpec(f"references: {name!r}: {error}") from error
        [arch] = as_archs(space.id, space.unrestricted.canonical(genes_1G))
        if arch not in archs.values():
            archs[name] = arch
    return archs


def _published(name: str, space: SearchSpace) -> tuple[int, ...]:
    if name not in space.published:
        raise UnknownName(f"published network of {space.name}", name, space.published)
    return space.published[name]

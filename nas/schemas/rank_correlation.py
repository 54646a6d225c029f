"""REST schemas: how well the estimates of a search rank architectures, and how few-shot search partitions its space."""

from __future__ import annotations

from pydantic import BaseModel

from nas.schemas.common import Range


class GradientSimilaritySchema(BaseModel):
    """Gradient similarity of the choices of a decision: mean cosines (-1 to 1) on the weights that they share.

    ``groups`` are the two groups with the greatest similarity inside; ``score`` is the difference to the similarity
    between them.
    """

    decision: str
    choices: list[str]
    similarity: list[list[float]]
    groups: list[list[str]]
    score: float


class SpacePartitionSchema(BaseModel):
    """A partition of a space, as a tree.

    A node has a ``decision`` and one child for each group of its choices; a leaf is the subspace number ``subspace``
    (from 1) with its ``share`` of all architectures."""

    choices: list[str] = []
    decision: str | None = None
    children: list[SpacePartitionSchema] = []
    subspace: int | None = None
    share: float | None = None


class RankedArchSchema(BaseModel):
    """An architecture that was trained alone: its quality by that (``standalone``), accuracy in %, and its estimates.

    Estimates are those ``after`` the partition, or the only ones, and ``before`` it, and of one supernet of the whole
    space after as much training (``one_shot``).
    """

    arch: str
    standalone: float
    before: float | None = None
    after: float
    one_shot: float | None = None


class RankCorrelationSchema(BaseModel):
    """The rank correlation of a search's estimates, and how a few-shot search partitioned its space.

    Kendall's tau compares estimates with architectures trained alone: with held-out ones where a strategy trains such
    (``rank_networks``), else with those that were retrained; ``partition``: of few-shot search alone; ``intervals`` are
    95 % bootstrap intervals of ``before``, ``after``, ``one_shot``, and of the ``gain`` of after over one_shot, which
    are conclusive if they do not hold zero. ``one_shot`` is one supernet of the whole space after as many steps
    (``one_shot_steps``) as all sub-supernets together (``steps``). Fields are None or empty before they are computed,
    or if they were not requested; ``advice`` summarises them."""

    method: str | None = None
    subspaces: int = 0
    partition: SpacePartitionSchema | None = None
    similarities: list[GradientSimilaritySchema] = []
    steps: int | None = None
    one_shot_steps: int | None = None
    tau_before: float | None = None
    tau_after: float | None = None
    tau_one_shot: float | None = None
    intervals: dict[str, Range] = {}
    networks: list[RankedArchSchema] = []
    advice: str = ""

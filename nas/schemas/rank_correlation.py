"""REST schemas of a few-shot search: how the space is partitioned and how well its estimates rank architectures."""

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
    """A held-out architecture: its accuracy in % when trained from scratch (``standalone``), and its estimates.

    Estimates are those ``before`` and ``after`` the partition, and of one supernet of the whole space after as much
    training (``one_shot``).
    """

    arch: str
    standalone: float
    before: float
    after: float
    one_shot: float | None = None


class RankCorrelationSchema(BaseModel):
    """How a few-shot search partitioned its space, and the rank correlation of its estimates.

    Kendall's tau compares estimates with architectures trained from scratch; ``intervals`` are 95 % bootstrap intervals
    of ``before``, ``after``, ``one_shot``, and of the ``gain`` of after over one_shot, which are conclusive if they do
    not hold zero. ``one_shot`` is one supernet of the whole
    space after as many steps (``one_shot_steps``) as all sub-supernets together (``steps``). Fields are None or empty
    before they are computed, or if they were not requested; ``advice`` summarises them.
    """

    method: str
    subspaces: int
    partition: SpacePartitionSchema
    similarities: list[GradientSimilaritySchema] = []
    steps: int | None = None
    one_shot_steps: int | None = None
    tau_before: float | None = None
    tau_after: float | None = None
    tau_one_shot: float | None = None
    intervals: dict[str, Range] = {}
    networks: list[RankedArchSchema] = []
    advice: str = ""

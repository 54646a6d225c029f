"""REST schemas of a few-shot search: how the space is partitioned and how well its estimates rank architectures."""

from __future__ import annotations

from pydantic import BaseModel


class GradientSimilaritySchema(BaseModel):
    """How far gradients agree between the choices of a decision: their mean cosine (-1 to 1) on the weights that they
    share, the two groups that agree best inside, and by how much more choices disagree between them (``score``)."""

    decision: str
    choices: list[str]
    similarity: list[list[float]]
    groups: list[list[str]]
    score: float


class SpacePartitionSchema(BaseModel):
    """A divided space as a tree. A node has the ``decision`` by which it is divided, a child for each group of its
    choices; a leaf is a ``part`` (from 1) with its ``share`` of all networks."""

    choices: list[str] = []
    decision: str | None = None
    children: list[SpacePartitionSchema] = []
    part: int | None = None
    share: float | None = None


class RankedArchSchema(BaseModel):
    """A held-out network: its validation accuracy in % when trained alone, and as estimated ``before`` the split,
    ``after`` it, and by the undivided supernet after as much training (``one_shot``)."""

    arch: str
    alone: float
    before: float
    after: float
    one_shot: float | None = None


class RankCorrelationSchema(BaseModel):
    """How a few-shot search divided its space, and how far its ranking can be trusted: Kendall's tau of estimates with
    networks trained alone. ``one_shot`` is the undivided supernet after as many steps (``one_shot_steps``) as all parts
    together (``steps``). What is not known yet, or was not asked for, is None or empty; ``advice`` sums it up.
    """

    method: str
    parts: int
    partition: SpacePartitionSchema
    similarities: list[GradientSimilaritySchema] = []
    steps: int | None = None
    one_shot_steps: int | None = None
    tau_before: float | None = None
    tau_after: float | None = None
    tau_one_shot: float | None = None
    networks: list[RankedArchSchema] = []
    advice: str = ""

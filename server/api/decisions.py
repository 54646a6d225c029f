"""What people decide on a finished search: which network to ship, and their stars and notes."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query

from nas.core.decision_importance import ImportanceReport, importance_of
from nas.core.errors import InvalidInput, UnknownName
from nas.core.metrics import METRICS
from nas.core.recommendation import DEFAULT_SLACK, Rule
from nas.schemas.marks import MarkBody, MarkSchema
from nas.schemas.recommendations import RecommendationRule, RecommendationSchema, recommend
from server.api import validate
from server.api.access import CurrentPrincipal
from server.api.candidates import front_schema
from server.api.context import CurrentStore
from server.api.errors import responses

router = APIRouter(tags=["searches"])


@router.get("/searches/{id}/recommendation", summary="Which network to ship", responses=responses(404))
def get_recommendation(
    id: str,
    store: CurrentStore,
    rule: Annotated[
        Rule, Query(description="`within`: the fastest within `slack` of the best; `knee`; `best`; `fastest`")
    ] = "within",
    slack: Annotated[float, Query(ge=0, description="Points of the quality, for the rule `within`")] = DEFAULT_SLACK,
    cost: Annotated[str | None, Query(description="The objective to weigh; default: latency or the first cost")] = None,
    cost_at_most: Annotated[float | None, Query(description="Only networks with at most this cost")] = None,
    quality_at_least: Annotated[float | None, Query(description="Only networks with at least this quality")] = None,
    device: Annotated[str | None, Query(description="The front on this device of the fleet")] = None,
) -> RecommendationSchema:
    """One member of the front by a rule, with the reason and the evidence for it. Verified networks go first; test
    images choose nothing."""
    choice = RecommendationRule(
        rule=rule, slack=slack, cost=cost, cost_at_most=cost_at_most, quality_at_least=quality_at_least
    )
    return recommend(front_schema(id, store, device), choice)


@router.get("/searches/{id}/marks", summary="Stars and notes", responses=responses(404))
def list_marks(id: str, store: CurrentStore) -> list[MarkSchema]:
    """The stars and notes of the search itself and of its candidates."""
    return store.marks.of(id)


@router.put("/searches/{id}/mark", summary="Star or annotate a search", responses=responses(404, 413, 507))
def mark_search(id: str, body: MarkBody, store: CurrentStore, principal: CurrentPrincipal) -> MarkSchema:
    """Replace star and note of a search. Without both, the mark is removed."""
    return store.marks.set(id, None, body, principal)


@router.put(
    "/searches/{id}/candidates/{arch}/mark", summary="Star or annotate a candidate", responses=responses(404, 413, 507)
)
def mark_candidate(id: str, arch: str, body: MarkBody, store: CurrentStore, principal: CurrentPrincipal) -> MarkSchema:
    """Replace star and note of a candidate. Without both, the mark is removed."""
    return store.marks.set(id, arch, body, principal)


@router.get("/searches/{id}/importance", summary="Which decisions matter", responses=responses(404))
def get_importance(
    id: str,
    store: CurrentStore,
    metric: Annotated[str | None, Query(description="A metric; default: the estimate of the quality")] = None,
) -> ImportanceReport:
    """How much each decision of the space explains of a metric, over all evaluated networks of search and baseline."""
    spec, table, _ = store.queries.evaluated(id)
    name = metric or spec.task.estimated
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    if not len(table):
        raise InvalidInput(f"search {id} has evaluated no network yet")
    value_N = table.metric(name)
    known_N = ~np.isnan(value_N)
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    return importance_of(name, space.decisions, table.genes_NG[known_N].astype(np.int64), value_N[known_N])

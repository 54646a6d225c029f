"""Predictor families and measurements of predictors by the words of docs/glossary.md.

Rewrites the rows of predictors, and the JSON of jobs and events. Hashes of specs change with their words, so that a
repeated submission still finds its onboarding.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_FAMILIES = {"best": "auto", "layer_table": "layer_lut"}
_KEYS = {"known": "measurements_blob"}
_BATCH = 1_000
Renames = Mapping[str, str]
JsonRow = dict[str, Any]


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _columns(*names: str) -> list[sa.ColumnClause[Any]]:
    strings = ("id", "kind", "spec_hash", "family", "job_id")
    return [sa.column(name, sa.String() if name in strings else _json()) for name in names]


class FamilyNames:
    """Old words by new ones, or with ``back`` the other way round."""

    def __init__(self, back: bool = False) -> None:
        def directed(names: Renames) -> Renames:
            return {new: old for old, new in names.items()} if back else names

        self.families, self.keys = directed(_FAMILIES), directed(_KEYS)

    def family(self, name: str) -> str:
        """The name of a predictor family."""
        return self.families.get(name, name)

    def spec(self, record: JsonRow) -> JsonRow:
        """The spec of an onboarding."""
        return {**record, "predictor": self.family(record["predictor"])} if "predictor" in record else record

    def card(self, record: JsonRow) -> JsonRow:
        """The card of a predictor, or another record with its family."""
        return {**record, "family": self.family(record["family"])} if "family" in record else record

    def fit(self, record: JsonRow) -> JsonRow:
        """The result of a fit or refit."""
        renamed = self.card({self.keys.get(key, key): value for key, value in record.items()})
        return renamed | {key: self.card(renamed[key]) for key in ("card", "energy") if renamed.get(key)}

    def state(self, record: JsonRow) -> JsonRow:
        """The state of a job."""
        changed = dict(record)
        if "fit" in record.get("finished", {}):
            changed["finished"] = {**record["finished"], "fit": self.fit(record["finished"]["fit"])}
        if record.get("refits"):
            changed["refits"] = [{**refit, "record": self.fit(refit["record"])} for refit in record["refits"]]
        return changed

    def event(self, body: JsonRow) -> JsonRow:
        """The body of an event."""
        if body.get("kind") == "refitted":
            return {**body, "record": self.fit(body["record"])}
        if (body.get("kind"), body.get("stage")) == ("stage_finished", "fit"):
            return {**body, "result": self.fit(body["result"])}
        return body


def _rewrite(names: FamilyNames) -> None:
    """Rewrite every row that holds one of the words."""
    jobs = sa.table("jobs", *_columns("id", "kind", "spec", "spec_hash", "state"))
    for row in op.get_bind().execute(sa.select(jobs)).mappings().all():
        values: JsonRow = {}
        if (state := names.state(row["state"] or {})) != (row["state"] or {}):
            values["state"] = state
        if row["kind"] == "device" and (spec := names.spec(row["spec"])) != row["spec"]:
            digest = hashlib.sha256(json.dumps(spec, sort_keys=True, allow_nan=False).encode()).hexdigest()
            values |= {"spec": spec, "spec_hash": digest}
        if values:
            op.execute(jobs.update().where(jobs.c.id == row["id"]).values(values))
    predictors = sa.table("predictors", *_columns("id", "family", "card"))
    for row in op.get_bind().execute(sa.select(predictors)).mappings().all():
        values = {"family": names.family(row["family"]), "card": names.card(row["card"])}
        op.execute(predictors.update().where(predictors.c.id == row["id"]).values(values))
    _rewrite_events(names.event)


def _rewrite_events(rewrite: Callable[[JsonRow], JsonRow]) -> None:
    """Rewrite the events in the order of their key, a batch at a time."""
    events = sa.table("events", *_columns("job_id", "body"), sa.column("seq", sa.Integer()))
    key = (events.c.job_id, events.c.seq)
    update = (
        events.update()
        .where(events.c.job_id == sa.bindparam("of_job"), events.c.seq == sa.bindparam("of_seq"))
        .values(body=sa.bindparam("new"))
    )
    bind, last = op.get_bind(), ("", -1)
    while True:
        after = sa.or_(key[0] > last[0], sa.and_(key[0] == last[0], key[1] > last[1]))
        rows = bind.execute(sa.select(*key, events.c.body).where(after).order_by(*key).limit(_BATCH)).all()
        if not rows:
            return
        last = (rows[-1][0], rows[-1][1])
        changed = [
            {"of_job": row[0], "of_seq": row[1], "new": new} for row in rows if (new := rewrite(row[2])) != row[2]
        ]
        if changed:
            bind.execute(update, changed)


def upgrade() -> None:
    """The new words."""
    op.execute("ALTER TABLE predictors RENAME COLUMN known TO measurements_blob")
    _rewrite(FamilyNames())


def downgrade() -> None:
    """The old words."""
    op.execute("ALTER TABLE predictors RENAME COLUMN measurements_blob TO known")
    _rewrite(FamilyNames(back=True))

"""Stage names, parameters of few-shot search and promised latencies by the words of docs/glossary.md.

Rewrites the JSON of jobs, events and candidates. Hashes of specs change with their words, so that a repeated
submission still finds its search.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STAGES = {"learn": "refine", "trust": "rank_correlation", "derive": "discretize", "price": "cost_estimate"}
_PARAMS = {
    "parts": "subspaces",
    "part_epochs": "subspace_epochs",
    "part_lr": "subspace_lr",
    "trust_networks": "rank_networks",
    "trust_epochs": "rank_epochs",
}
_METHODS = {"mixture": "ensemble"}
_RESULT_KEYS = {"parts": "subspaces", "part": "subspace"}
_DIVIDED = ("split", "train", "derive", "discretize")  # stages whose results name subspaces
_PROMISE = {"claim_ms": "promised_ms"}
_BATCH = 1_000
Names = Mapping[str, str]
Record = dict[str, Any]


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


class Words:
    """Old words by new ones, or with ``back`` the other way round."""

    def __init__(self, back: bool = False) -> None:
        def of(names: Names) -> Names:
            return {new: old for old, new in names.items()} if back else names

        self.stages, self.params, self.methods = of(_STAGES), of(_PARAMS), of(_METHODS)
        self.result_keys, self.promise = of(_RESULT_KEYS), of(_PROMISE)
        self._sub_supernet = ("train.subspace", "train.part") if back else ("train.part", "train.subspace")

    def stage(self, name: str) -> str:
        """The name of a stage."""
        old, new = self._sub_supernet
        number = name.removeprefix(old)
        return f"{new}{number}" if number != name and number.isdigit() else self.stages.get(name, name)

    def spec(self, record: Record) -> Record:
        """A spec."""
        strategy = record.get("strategy")
        if not isinstance(strategy, dict) or strategy.get("name") != "few_shot":
            return record
        params = _renamed(strategy.get("params", {}), self.params)
        if "split" in params:
            params["split"] = self.methods.get(params["split"], params["split"])
        return {**record, "strategy": {**strategy, "params": params}}

    def result(self, stage: str, record: Record) -> Record:
        """The result of a stage."""
        if stage not in _DIVIDED:
            return record
        renamed = _renamed(record, self.result_keys)
        if "method" in renamed:
            renamed["method"] = self.methods.get(renamed["method"], renamed["method"])
        for key in ("runs", "parts", "subspaces"):
            if isinstance(renamed.get(key), list):
                renamed[key] = [_renamed(run, self.result_keys) for run in renamed[key]]
        return renamed

    def state(self, record: Record) -> Record:
        """The state of a job."""
        if not record:
            return record
        return {
            **record,
            "stage": self.stage(record["stage"]) if record.get("stage") else record.get("stage"),
            "finished": {self.stage(s): self.result(s, r) for s, r in record["finished"].items()},
            "seconds": {self.stage(s): seconds for s, seconds in record["seconds"].items()},
            "checkpoints": {
                self.stage(s): {**c, "stage": self.stage(c["stage"])} for s, c in record["checkpoints"].items()
            },
            "refits": [{**r, "stage": self.stage(r["stage"])} for r in record.get("refits", ())],
        }

    def bars(self, bars: list[Record]) -> list[Record]:
        """The progress bars of a job."""
        return [{**bar, "name": self.stage(bar["name"])} for bar in bars]

    def event(self, body: Record) -> Record:
        """The body of an event."""
        body = _renamed(body, self.promise)
        if body.get("kind") == "stage_finished":
            body["result"] = self.result(body["stage"], body["result"])
        if body.get("kind") == "traced":
            body["values"] = _renamed(body["values"], self.result_keys)
        if isinstance(body.get("stage"), str):
            body["stage"] = self.stage(body["stage"])
        if "candidates" in body:
            body["candidates"] = [self.candidate(candidate) for candidate in body["candidates"]]
        return body

    def candidate(self, record: Record) -> Record:
        """A candidate, or what is known of it on one device."""
        renamed = _renamed(record, self.promise)
        if renamed.get("devices"):
            renamed["devices"] = self.devices(renamed["devices"])
        return renamed

    def devices(self, record: Record) -> Record:
        """The latencies of a candidate by device."""
        return {name: _renamed(on_device, self.promise) for name, on_device in record.items()}


def _renamed(record: Record, names: Names) -> Record:
    return {names.get(key, key): value for key, value in record.items()}


def _rewrite(words: Words) -> None:
    """Rewrite every row that holds one of the words."""
    jobs = sa.table("jobs", *(sa.column(c, t) for c, t in _columns("id", "spec", "state", "stages", "spec_hash")))
    for row in op.get_bind().execute(sa.select(jobs)).mappings().all():
        spec = words.spec(row["spec"])
        values: Record = {"state": words.state(row["state"]), "stages": words.bars(row["stages"])}
        if spec != row["spec"]:
            digest = hashlib.sha256(json.dumps(spec, sort_keys=True, allow_nan=False).encode()).hexdigest()
            values |= {"spec": spec, "spec_hash": digest}
        op.execute(jobs.update().where(jobs.c.id == row["id"]).values(values))
    _rewrite_column("events", ("job_id", "seq"), "body", words.event)
    _rewrite_column("points", ("job_id", "position"), "devices", words.devices)


def _columns(*names: str) -> Iterator[tuple[str, sa.types.TypeEngine[Any]]]:
    for name in names:
        yield name, sa.String() if name in ("id", "spec_hash") else _json()


def _rewrite_column(name: str, key: tuple[str, str], column: str, rewrite: Callable[[Record], Record]) -> None:
    """Rewrite one JSON column of a table, in the order of its key and a batch at a time."""
    table = sa.table(name, sa.column(key[0], sa.String()), sa.column(key[1], sa.Integer()), sa.column(column, _json()))
    first, second, value = table.c[key[0]], table.c[key[1]], table.c[column]
    bind, last = op.get_bind(), ("", -1)
    statement = (
        table.update()
        .where(first == sa.bindparam("first"), second == sa.bindparam("second"))
        .values({column: sa.bindparam("new")})
    )
    while True:
        after = sa.or_(first > last[0], sa.and_(first == last[0], second > last[1]))
        query = sa.select(first, second, value).where(after).order_by(first, second).limit(_BATCH)
        rows = bind.execute(query).all()
        if not rows:
            return
        last = (rows[-1][0], rows[-1][1])
        changed = [
            {"first": row[0], "second": row[1], "new": new}
            for row in rows
            if row[2] is not None and (new := rewrite(dict(row[2]))) != row[2]
        ]
        if changed:
            bind.execute(statement, changed)


def upgrade() -> None:
    """The new words."""
    op.execute("ALTER TABLE points RENAME COLUMN claim_ms TO promised_ms")
    _rewrite(Words())


def downgrade() -> None:
    """The old words."""
    op.execute("ALTER TABLE points RENAME COLUMN promised_ms TO claim_ms")
    _rewrite(Words(back=True))

"""Versions of predictors, and readings of devices over time."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _big_id() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("profile_id", sa.String(16), nullable=False),
        sa.Column("profile", _json(), nullable=False),
        sa.Column("space_id", sa.String(120), nullable=False),
        sa.Column("family", sa.String(64), nullable=False),
        sa.Column("card", _json(), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
    ]


def _rows() -> list[dict[str, Any]]:
    table = sa.table("predictors", *[sa.column(c.name, c.type) for c in _columns()])
    return [dict(row._mapping) for row in op.get_bind().execute(sa.select(table).order_by(table.c.created_at))]


def _made_anew(*more: Any, rows: list[dict[str, Any]]) -> None:
    """The table with other columns and constraints. It holds a few rows, and nothing refers to them."""
    op.drop_index("ix_predictors_device_space_id_created_at", "predictors")
    op.drop_table("predictors")
    table = op.create_table(
        "predictors",
        *_columns(),
        *more,
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_predictors_device_devices"),
        sa.PrimaryKeyConstraint("id", name="pk_predictors"),
    )
    op.create_index("ix_predictors_device_space_id_created_at", "predictors", ["device", "space_id", "created_at"])
    if rows:
        op.bulk_insert(table, rows)


def upgrade() -> None:
    """A predictor is no longer always that of an onboarding. What an onboarding knows is in its job's state."""
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("state", _json()))
    rows, counts = _rows(), dict[tuple[str, str], int]()
    for row in rows:
        state = op.get_bind().execute(sa.select(jobs.c.state).where(jobs.c.id == row["id"])).scalar() or {}
        fit = state.get("finished", {}).get("fit", {})
        of = (row["device"], row["space_id"])
        counts[of] = counts.get(of, 0) + 1
        row |= {"number": counts[of], "before": None, "search_id": None, "better": True, "why": ""}
        row |= {"known": fit.get("known"), "networks": fit.get("networks", 0)}
    _made_anew(
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("before", sa.String(32)),
        sa.Column("search_id", sa.String(32)),
        sa.Column("known", sa.String(64)),
        sa.Column("networks", sa.Integer(), nullable=False),
        sa.Column("better", sa.Boolean(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        rows=rows,
    )
    op.add_column("jobs", sa.Column("predictor_id", sa.String(32)))
    op.create_index("ix_jobs_predictor_id", "jobs", ["predictor_id"])
    op.create_table(
        "readings",
        sa.Column("id", _big_id(), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("profile_id", sa.String(16), nullable=False),
        sa.Column("protocol", sa.String(16), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("canary", sa.Double(), nullable=False),
        sa.Column("space_id", sa.String(120)),
        sa.Column("predictor_id", sa.String(32)),
        sa.Column("arch_id", sa.String(16)),
        sa.Column("genes", _json()),
        sa.Column("measured_ms", sa.Double()),
        sa.Column("predicted_ms", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_readings"),
    )
    op.create_index("ix_readings_device_at", "readings", ["device", "at"])


def downgrade() -> None:
    """Versions that grew from others are lost, and so is how devices were over time."""
    op.drop_index("ix_readings_device_at", "readings")
    op.drop_table("readings")
    op.drop_index("ix_jobs_predictor_id", "jobs")
    op.drop_column("jobs", "predictor_id")
    before = sa.table("predictors", sa.column("id", sa.String), sa.column("before", sa.String))
    grown = set(op.get_bind().execute(sa.select(before.c.id).where(before.c.before.is_not(None))).scalars())
    _made_anew(
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name="fk_predictors_id_jobs"),
        rows=[row for row in _rows() if row["id"] not in grown],
    )

"""Leases of workers; rounds that are tried again, or were taken over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "pixbal_lease",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("holder", sa.String(length=200)),
        sa.Column("token", BIG, nullable=False),
        sa.Column("beat", BIG, nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_from", sa.String(length=200)),
        sa.Column("taken_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("pixbal_round", sa.Column("retry_in_s", sa.Float()))
    op.add_column("pixbal_round", sa.Column("note", sa.Text()))

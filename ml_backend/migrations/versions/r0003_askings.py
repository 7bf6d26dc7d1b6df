"""Questions that are asked again; states, settings and the version in use of a project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REGION = ["project_id", "image_id", "region_index"]


# Defaults stay in the tables: SQLite cannot take them away without making a table anew.
NO = sa.false()


def upgrade() -> None:
    _project()
    _query()
    op.add_column(
        "pixbal_label", sa.Column("other", sa.Boolean(), nullable=False, server_default=NO)
    )
    op.add_column("pixbal_round", sa.Column("train_config", sa.Text()))
    # Pushing after a finished round made it "cut off" again and again, until it stayed failed.
    op.execute(
        "UPDATE pixbal_round SET state = 'done', error = NULL, retry_in_s = NULL"
        " WHERE state = 'failed' AND version IS NOT NULL"
        " AND error LIKE 'The round was cut off: the engine recorded SUCCESS%'"
    )


def _project() -> None:
    """Ticks in advance were on unless somebody switched them off, hence "auto" and "never"."""
    new: tuple[sa.Column[Any], ...] = (
        sa.Column("mode", sa.String(length=16), nullable=False, server_default="auto"),
        sa.Column("state", sa.String(length=16), nullable=False, server_default="active"),
        sa.Column("push_held", sa.Boolean(), nullable=False, server_default=NO),
        sa.Column("trouble", sa.Text()),
        sa.Column("trouble_at", sa.DateTime(timezone=True)),
        sa.Column("per_image", sa.Integer()),
        # Annotators were told to tick every class, whatever its share.
        sa.Column("smallest_share", sa.Float(), nullable=False, server_default="0"),
        sa.Column("current_version", sa.String(length=200)),
        sa.Column("region_project", BIG),
        sa.Column("classes_added", sa.Text(), nullable=False, server_default="{}"),
    )
    for column in new:
        op.add_column("pixbal_project", column)
    op.execute("UPDATE pixbal_project SET mode = 'never' WHERE NOT preticks")
    # The last one published was the one in use.
    op.execute(
        "UPDATE pixbal_project SET current_version = (SELECT name FROM pixbal_version v"
        " WHERE v.project_id = pixbal_project.id ORDER BY round DESC, created_at DESC LIMIT 1)"
    )
    # By hand: Alembic would make the table anew, which other tables refer to.
    op.execute("ALTER TABLE pixbal_project DROP COLUMN preticks")
    op.execute("ALTER TABLE pixbal_project RENAME COLUMN mode TO preticks")


def _query() -> None:
    for column in (
        sa.Column("asking", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("control", sa.Boolean(), nullable=False, server_default=NO),
        sa.Column("reason", sa.Text()),
    ):
        op.add_column("pixbal_query", column)
    with _labels_detached(), op.batch_alter_table("pixbal_query") as table:
        table.drop_constraint("uq_pixbal_query_region", type_="unique")
        table.create_unique_constraint("uq_pixbal_query_asking", [*REGION, "asking"])


@contextmanager
def _labels_detached() -> Iterator[None]:
    """Only a table that no row refers to can be made anew by SQLite, inside a transaction.

    PostgreSQL alters it in place.
    """
    if op.get_bind().dialect.name != "sqlite":
        yield
        return
    op.execute(
        "CREATE TEMP TABLE pixbal_joined AS SELECT annotation_id, query_id FROM pixbal_label"
    )
    op.execute("UPDATE pixbal_label SET query_id = NULL")
    yield
    op.execute(
        "UPDATE pixbal_label SET query_id = (SELECT query_id FROM pixbal_joined j"
        " WHERE j.annotation_id = pixbal_label.annotation_id)"
    )
    op.execute("DROP TABLE pixbal_joined")

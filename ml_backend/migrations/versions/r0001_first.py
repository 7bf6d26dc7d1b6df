"""First revision: projects, images, queries, events, labels, rounds, versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _project()
    _image()
    _query()
    _event()
    _label()
    _round()
    _version()


def _project() -> None:
    op.create_table(
        "pixbal_project",
        sa.Column("id", BIG, autoincrement=False, nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("schema_json", sa.Text(), nullable=False),
        sa.Column("template", sa.String(length=64), nullable=False),
        sa.Column("label_config", sa.Text(), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("side_px", sa.Integer(), nullable=False),
        sa.Column("seed", BIG, nullable=False),
        sa.Column("budget_clicks", sa.Float(), nullable=False),
        sa.Column("train_every", sa.Integer()),
        sa.Column("preticks", sa.Boolean(), nullable=False),
        sa.Column("train_config", sa.Text(), nullable=False),
        sa.Column("acquisition", sa.String(length=64), nullable=False),
        sa.Column("model_version", sa.String(length=200)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _image() -> None:
    op.create_table(
        "pixbal_image",
        sa.Column("project_id", BIG, nullable=False),
        sa.Column("image_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("regions_path", sa.Text(), nullable=False),
        sa.Column("regions_hash", sa.String(length=64), nullable=False),
        sa.Column("region_count", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("mask_path", sa.Text()),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("ls_task_id", BIG),
        sa.ForeignKeyConstraint(["project_id"], ["pixbal_project.id"]),
        sa.PrimaryKeyConstraint("project_id", "image_id", "split"),
    )
    op.create_index("ix_pixbal_image_task", "pixbal_image", ["project_id", "ls_task_id"])


def _query() -> None:
    op.create_table(
        "pixbal_query",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("project_id", BIG, nullable=False),
        sa.Column("image_id", sa.String(length=64), nullable=False),
        sa.Column("region_index", sa.Integer(), nullable=False),
        sa.Column("regions_hash", sa.String(length=64), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("task_id", BIG),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("expected_clicks", sa.Float(), nullable=False),
        sa.Column("preticks", sa.Text(), nullable=False),
        sa.Column("model_version", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["pixbal_project.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "project_id", "image_id", "region_index", name="uq_pixbal_query_region"
        ),
        sa.UniqueConstraint("project_id", "task_id", name="uq_pixbal_query_task"),
    )
    op.create_index("ix_pixbal_query_status", "pixbal_query", ["project_id", "status"])


def _event() -> None:
    op.create_table(
        "pixbal_event",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("project_id", BIG),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_pixbal_event_pending", "pixbal_event", ["processed_at", "id"])


def _label() -> None:
    op.create_table(
        "pixbal_label",
        sa.Column("annotation_id", BIG, autoincrement=False, nullable=False),
        sa.Column("project_id", BIG, nullable=False),
        sa.Column("task_id", BIG),
        sa.Column("query_id", BIG),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.Column("lead_time_s", sa.Float()),
        sa.Column("annotator", sa.String(length=200)),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["pixbal_project.id"]),
        sa.ForeignKeyConstraint(["query_id"], ["pixbal_query.id"]),
        sa.PrimaryKeyConstraint("annotation_id"),
    )
    op.create_index("ix_pixbal_label_query", "pixbal_label", ["query_id"])
    op.create_index("ix_pixbal_label_task", "pixbal_label", ["project_id", "task_id"])


def _round() -> None:
    op.create_table(
        "pixbal_round",
        sa.Column("project_id", BIG, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("trigger", sa.String(length=64), nullable=False),
        sa.Column("workflow_id", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=64)),
        sa.Column("epoch", sa.Integer()),
        sa.Column("step", sa.Integer()),
        sa.Column("steps", sa.Integer()),
        sa.Column("loss", sa.Float()),
        sa.Column("eta_s", sa.Float()),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("version", sa.String(length=200)),
        sa.Column("labels", sa.Integer()),
        sa.Column("clicks", sa.Integer()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["pixbal_project.id"]),
        sa.PrimaryKeyConstraint("project_id", "number"),
    )


def _version() -> None:
    op.create_table(
        "pixbal_version",
        sa.Column("project_id", BIG, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("weights_hash", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["pixbal_project.id"]),
        sa.PrimaryKeyConstraint("project_id", "name"),
    )

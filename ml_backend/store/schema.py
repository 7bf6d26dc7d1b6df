"""Tables. The migrations make them; a test holds both equal."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from ml_backend.store.types import BIG, Json, Names, Utc

metadata = MetaData()

# The prefix keeps the tables apart from Label Studio's in a shared PostgreSQL database.
project = Table(
    "pixbal_project",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=False),
    Column("title", Text, nullable=False),
    Column("schema_json", Json, nullable=False),
    Column("template", String(64), nullable=False),
    Column("label_config", Text, nullable=False),
    Column("method", String(64), nullable=False),
    Column("side_px", Integer, nullable=False),
    Column("seed", BIG, nullable=False),
    Column("budget_clicks", Float, nullable=False),
    Column("train_every", Integer),
    Column("train_config", Json, nullable=False),
    Column("acquisition", String(64), nullable=False),
    Column("model_version", String(200)),
    Column("created_at", Utc, nullable=False),
    Column("preticks", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("push_held", Boolean, nullable=False),
    Column("trouble", Text),
    Column("trouble_at", Utc),
    Column("per_image", Integer),
    Column("smallest_share", Float, nullable=False),
    Column("current_version", String(200)),
    Column("region_project", BIG),
    Column("classes_added", Json, nullable=False),
)

image = Table(
    "pixbal_image",
    metadata,
    Column("project_id", BIG, ForeignKey("pixbal_project.id"), primary_key=True),
    Column("image_id", String(64), primary_key=True),
    Column("source", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("regions_path", Text, nullable=False),
    Column("regions_hash", String(64), nullable=False),
    Column("region_count", Integer, nullable=False),
    Column("split", String(16), primary_key=True),
    Column("mask_path", Text),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("ls_task_id", BIG),
    Index("ix_pixbal_image_task", "project_id", "ls_task_id"),
)

query = Table(
    "pixbal_query",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("project_id", BIG, ForeignKey("pixbal_project.id"), nullable=False),
    Column("image_id", String(64), nullable=False),
    Column("region_index", Integer, nullable=False),
    Column("regions_hash", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("task_id", BIG),
    Column("score", Float, nullable=False),
    Column("expected_clicks", Float, nullable=False),
    Column("preticks", Names, nullable=False),
    Column("model_version", String(200), nullable=False),
    Column("asking", Integer, nullable=False),
    Column("control", Boolean, nullable=False),
    Column("reason", Text),
    UniqueConstraint(
        "project_id", "image_id", "region_index", "asking", name="uq_pixbal_query_asking"
    ),
    UniqueConstraint("project_id", "task_id", name="uq_pixbal_query_task"),
    Index("ix_pixbal_query_status", "project_id", "status"),
)

event = Table(
    "pixbal_event",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("project_id", BIG),
    Column("action", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("received_at", Utc, nullable=False),
    Column("processed_at", Utc),
    Column("error", Text),
    Index("ix_pixbal_event_pending", "processed_at", "id"),
)

label = Table(
    "pixbal_label",
    metadata,
    Column("annotation_id", BIG, primary_key=True, autoincrement=False),
    Column("project_id", BIG, ForeignKey("pixbal_project.id"), nullable=False),
    Column("task_id", BIG),
    Column("query_id", BIG, ForeignKey("pixbal_query.id")),
    Column("kind", String(16), nullable=False),
    Column("classes", Names, nullable=False),
    Column("clicks", Integer, nullable=False),
    Column("lead_time_s", Float),
    Column("annotator", String(200)),
    Column("updated_at", Utc, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("seen_at", Utc, nullable=False),
    Column("other", Boolean, nullable=False),
    Index("ix_pixbal_label_query", "query_id"),
    Index("ix_pixbal_label_task", "project_id", "task_id"),
)

round_ = Table(
    "pixbal_round",
    metadata,
    Column("project_id", BIG, ForeignKey("pixbal_project.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("trigger", String(64), nullable=False),
    Column("workflow_id", String(200), nullable=False),
    Column("state", String(32), nullable=False),
    Column("stage", String(64)),
    Column("epoch", Integer),
    Column("step", Integer),
    Column("steps", Integer),
    Column("loss", Float),
    Column("eta_s", Float),
    Column("started_at", Utc, nullable=False),
    Column("finished_at", Utc),
    Column("error", Text),
    Column("version", String(200)),
    Column("labels", Integer),
    Column("clicks", Integer),
    Column("attempts", Integer, nullable=False),
    Column("retry_in_s", Float),
    Column("note", Text),
    Column("train_config", Json),
)

version = Table(
    "pixbal_version",
    metadata,
    Column("project_id", BIG, ForeignKey("pixbal_project.id"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("round", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("weights_hash", String(128), nullable=False),
    Column("created_at", Utc, nullable=False),
)

lease = Table(
    "pixbal_lease",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("holder", String(200)),  # NULL: free
    Column("token", BIG, nullable=False),
    Column("beat", BIG, nullable=False),
    Column("renewed_at", Utc, nullable=False),
    Column("taken_from", String(200)),
    Column("taken_at", Utc),
)

"""Projects, their images, and their model versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Update, case, delete, select, update

from ml_backend.errors import Conflict, NotFound
from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart, check_fields, values
from ml_backend.store.rows import Image, Project, VersionRow


class Projects(StorePart):
    """The part of the store that knows projects, images and versions."""

    def add_project(self, project: Project) -> None:
        """Record a project.

        Raises:
            Conflict: it is recorded already.
        """
        with self._write() as connection:
            insert = Dialects.insert(connection, schema.project).on_conflict_do_nothing()
            if not Dialects.changes(connection, insert, values(project)):
                raise Conflict(
                    f"Project {project.id} is recorded already.",
                    "Use update_project, or another Label Studio project.",
                )

    def project(self, project_id: int) -> Project | None:
        """The project, or None."""
        table = schema.project
        with self._read() as connection:
            row = connection.execute(select(table).where(table.c.id == project_id)).first()
        return Project(*row) if row else None

    def projects(self) -> list[Project]:
        """Every project, by id."""
        with self._read() as connection:
            rows = connection.execute(select(schema.project).order_by(schema.project.c.id))
            return [Project(*row) for row in rows]

    def update_project(self, project_id: int, **changes: Any) -> None:
        """Change fields of a project.

        Raises:
            NotFound: no such project.
        """
        check_fields(Project, changes, ("id", "created_at"))
        statement = update(schema.project).where(schema.project.c.id == project_id).values(changes)
        with self._write() as connection:
            if changes and connection.execute(statement).rowcount == 0:
                raise NotFound(f"Project {project_id} is not recorded.", "Run `pixbal init`.")

    def add_images(self, images: Sequence[Image]) -> int:
        """Record images; returns how many rows were added or changed.

        An image that is recorded stays as it is, removed or not, since its queries name its
        regions; one that could not be read before is replaced, and forgotten where it was another
        state of the same file.
        """
        table = schema.image
        with self._write() as connection:
            insert = Dialects.insert(connection, schema.image)
            keys = ("project_id", "image_id", "split")
            others = {c.name: c for c in insert.excluded if c.name not in keys}
            statement = insert.on_conflict_do_update(
                index_elements=keys, set_=others, where=table.c.status == "unreadable"
            )
            for row in images:
                connection.execute(
                    delete(table).where(
                        table.c.project_id == row.project_id,
                        table.c.source == row.source,
                        table.c.split == row.split,
                        table.c.status == "unreadable",
                        table.c.image_id != row.image_id,
                    )
                )
            return sum(Dialects.changes(connection, statement, values(row)) for row in images)

    def put_image(self, image: Image) -> None:
        """Record an image in place of what was recorded of it in its split: held-out ones change.

        A pool image is removed and restored: its queries name its regions.
        """
        with self._write() as connection:
            insert = Dialects.insert(connection, schema.image)
            keys = ("project_id", "image_id", "split")
            others = {c.name: c for c in insert.excluded if c.name not in keys}
            connection.execute(
                insert.on_conflict_do_update(index_elements=keys, set_=others), [values(image)]
            )

    def remove_image(self, project_id: int, image_id: str) -> None:
        """Take an image out of the pool, and back the questions about it that nobody can see yet.

        Its answers stay. What is open or under way is withdrawn by `images.withdraw_removed`.
        """
        query = schema.query
        with self._write() as connection:
            connection.execute(_pool_image(project_id, image_id).values(status="removed"))
            connection.execute(
                update(query)
                .where(
                    query.c.project_id == project_id,
                    query.c.image_id == image_id,
                    query.c.status == "planned",
                )
                .values(status="withdrawn")
            )

    def restore_image(self, project_id: int, image_id: str) -> None:
        """Bring a removed image back into the pool.

        Its withdrawn questions that were never answered are forgotten, so that they can be asked.
        """
        query = schema.query
        answered = select(schema.label.c.query_id).where(schema.label.c.query_id.is_not(None))
        with self._write() as connection:
            connection.execute(_pool_image(project_id, image_id).values(status="ready"))
            connection.execute(
                delete(query).where(
                    query.c.project_id == project_id,
                    query.c.image_id == image_id,
                    query.c.status == "withdrawn",
                    query.c.id.not_in(answered),
                )
            )

    def images(
        self, project_id: int, *, split: str | None = None, status: str | None = None
    ) -> list[Image]:
        """Images of a project by image id."""
        table = schema.image
        statement = select(table).where(table.c.project_id == project_id)
        if split is not None:
            statement = statement.where(table.c.split == split)
        if status is not None:
            statement = statement.where(table.c.status == status)
        with self._read() as connection:
            rows = connection.execute(statement.order_by(table.c.image_id, table.c.split))
            return [Image(*row) for row in rows]

    def image(self, project_id: int, image_id: str) -> Image | None:
        """The image, or None; where it is in the pool and held out, the pool's."""
        table = schema.image
        return self._one_image(project_id, table.c.image_id == image_id)

    def image_by_task(self, project_id: int, task_id: int) -> Image | None:
        """The image that came from, or is shown by, a Label Studio task; or None."""
        return self._one_image(project_id, schema.image.c.ls_task_id == task_id)

    def image_by_source(self, project_id: int, source: str) -> Image | None:
        """The image of this very source, or None."""
        return self._one_image(project_id, schema.image.c.source == source)

    def _one_image(self, project_id: int, condition: Any) -> Image | None:
        table = schema.image
        unreadable_last = case(
            (table.c.status == "ready", 0), (table.c.status == "removed", 1), else_=2
        )
        statement = (
            select(table)
            .where(table.c.project_id == project_id, condition)
            .order_by(unreadable_last, table.c.split.desc(), table.c.image_id)
            .limit(1)
        )
        with self._read() as connection:
            row = connection.execute(statement).first()
        return Image(*row) if row else None

    def update_image(self, project_id: int, image_id: str, **changes: Any) -> None:
        """Change fields of an image, in every split it is in.

        Raises:
            NotFound: no such image.
        """
        check_fields(Image, changes, ("project_id", "image_id", "split"))
        table = schema.image
        where = (table.c.project_id == project_id, table.c.image_id == image_id)
        with self._write() as connection:
            done = connection.execute(update(table).where(*where).values(changes))
            if changes and done.rowcount == 0:
                raise NotFound(f"Project {project_id} has no image {image_id}.")

    def add_version(self, version: VersionRow) -> bool:
        """Record a published version; False where that name is recorded already."""
        with self._write() as connection:
            insert = Dialects.insert(connection, schema.version).on_conflict_do_nothing()
            return Dialects.changes(connection, insert, values(version))

    def version(self, project_id: int, name: str) -> VersionRow | None:
        """The version of this name, or None."""
        table = schema.version
        where = (table.c.project_id == project_id, table.c.name == name)
        with self._read() as connection:
            row = connection.execute(select(table).where(*where)).first()
        return VersionRow(*row) if row else None

    def versions(self, project_id: int) -> list[VersionRow]:
        """Versions of a project, oldest first."""
        table = schema.version
        statement = select(table).where(table.c.project_id == project_id)
        with self._read() as connection:
            rows = connection.execute(statement.order_by(table.c.round, table.c.created_at))
            return [VersionRow(*row) for row in rows]


def _pool_image(project_id: int, image_id: str) -> Update:
    table = schema.image
    return update(table).where(
        table.c.project_id == project_id, table.c.image_id == image_id, table.c.split == "pool"
    )

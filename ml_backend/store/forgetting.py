"""Everything about one project out of the store, at once."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from ml_backend.store import schema
from ml_backend.store.base import StorePart

# Rows that refer to others come first.
_TABLES = (
    schema.label, schema.query, schema.image, schema.round_, schema.version, schema.event,
)  # fmt: skip


class Forgetting(StorePart):
    """The part of the store that forgets a project."""

    def count_rows(self, project_id: int) -> dict[str, int]:
        """How many rows of each kind a project has, by the table's name without its prefix."""
        with self._read() as connection:
            return {
                table.name.removeprefix("pixbal_"): int(
                    connection.execute(
                        select(func.count()).where(table.c.project_id == project_id)
                    ).scalar_one()
                )
                for table in _TABLES
            }

    def named_files(self, *, without: int) -> set[str]:
        """Files that the images of every other project name."""
        table = schema.image
        columns = (table.c.path, table.c.regions_path, table.c.mask_path)
        with self._read() as connection:
            rows = connection.execute(select(*columns).where(table.c.project_id != without))
            return {str(path) for row in rows for path in row if path}

    def forget_project(self, project_id: int) -> bool:
        """Delete a project with every row about it, in one transaction; False: it was not there.

        Leases stay: their numbers must go on rising, should the id come back.
        """
        with self._write() as connection:
            for table in _TABLES:
                connection.execute(delete(table).where(table.c.project_id == project_id))
            project = schema.project
            gone = connection.execute(delete(project).where(project.c.id == project_id))
            return gone.rowcount == 1

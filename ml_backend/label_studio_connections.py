"""Webhooks and ML backends of a Label Studio project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ml_backend.errors import LabelStudioError
from ml_backend.label_studio_calls import Calls
from ml_backend.label_studio_errors import RESERVED_ADDRESS
from ml_backend.proxies import proxy_hint_for_label_studio

WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_DELETED",
)

Change = Literal["created", "updated", "unchanged"]


class ConnectionCalls(Calls):
    """The calls that connect a project with a backend."""

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The project's webhooks."""
        found = self.call("webhooks", lambda sdk: sdk.webhooks.list(project=project_id))
        return [hook.model_dump() for hook in found]

    def ensure_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> Change:
        """Exactly one active webhook of the project to `url`, with our actions and headers."""
        wanted: dict[str, Any] = {
            "actions": sorted(WEBHOOK_ACTIONS),
            "headers": dict(headers),
            "is_active": True,
            "send_for_all_actions": False,
            "send_payload": True,
        }
        same = [hook for hook in self.webhooks(project_id) if hook["url"] == url]
        if not same:
            self.call(
                f"making a webhook to {url}",
                lambda sdk: sdk.webhooks.create(url=url, project=project_id, **wanted),
                repeat=False,
            )
            return "created"
        first, *doubles = sorted(same, key=lambda hook: int(hook["id"]))
        for hook in doubles:
            self._delete_webhook(hook["id"])
        current = {**first, "actions": sorted(first["actions"] or ())}
        if not doubles and all(current[key] == value for key, value in wanted.items()):
            return "unchanged"
        self.call(
            f"changing the webhook to {url}",
            lambda sdk: sdk.webhooks.update(id=first["id"], url=url, **wanted),
        )
        return "updated"

    def _delete_webhook(self, webhook_id: int) -> None:
        self.call("deleting a webhook", lambda sdk: sdk.webhooks.delete(id=webhook_id))

    def ensure_local_storage(self, project_id: int, folder: str, title: str) -> Change:
        """Have Label Studio serve the files of a folder below its document root to the project.

        Label Studio answers 404 to `/data/local-files/` addresses outside of every such folder.
        """
        found = self.call(
            "local storages", lambda sdk: sdk.import_storage.local.list(project=project_id)
        )
        if any(storage.path == folder for storage in found):
            return "unchanged"
        self.call(
            f"making a local storage of {folder}",
            lambda sdk: sdk.import_storage.local.create(
                # Never synchronised: its files are pictures of questions, not tasks.
                project=project_id, path=folder, title=title, use_blob_urls=True,
                synchronizable=False,
            ),
            repeat=False,
        )  # fmt: skip
        return "created"

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """The project's ML backends; listing makes Label Studio ask each for /health and /setup."""
        found = self.call("ML backends", lambda sdk: sdk.ml.list(project=project_id))
        return [backend.model_dump(mode="json") for backend in found]

    def ensure_ml_backend(
        self, project_id: int, url: str, title: str, user: str, password: str
    ) -> Change:
        """Exactly one ML backend of the project at `url`, reached with basic authentication.

        A refused connection leaves no half-made row behind.
        """
        wanted = {
            "title": title,
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": user,
        }
        same = [row for row in self.ml_backends(project_id) if row["url"].rstrip("/") == url]
        # The password cannot be read back; a row that is connected has the right one.
        good = [r for r in same if r["state"] == "CO" and all(r[k] == v for k, v in wanted.items())]
        keep = (good or same)[:1]
        for row in same:
            if row not in keep:
                self._delete_ml_backend(row["id"])
        if good:
            return "unchanged" if len(same) == 1 else "updated"
        fields = {**wanted, "basic_auth_pass": password, "project": project_id, "url": url}
        if keep:
            # Without url and project Label Studio answers this PATCH with a 500.
            self.call(
                f"changing the ML backend at {url}",
                lambda sdk: sdk.ml.update(id=keep[0]["id"], **fields),
            )
            return "updated"
        try:
            self.call(f"connecting {url}", lambda sdk: sdk.ml.create(**fields), repeat=False)
        except LabelStudioError as error:
            if RESERVED_ADDRESS not in error.message:
                error.hint = f"{error.hint} {proxy_hint_for_label_studio(url)}".rstrip()
            # With some settings Label Studio answers 403 and keeps the row.
            for row in self.ml_backends(project_id):
                if row["url"].rstrip("/") == url:
                    self._delete_ml_backend(row["id"])
            raise
        return "created"

    def disconnect(self, project_id: int, url: str) -> list[str]:
        """Delete our ML backend at `url` and our webhook from the project; which of them it had."""
        done = []
        for row in self.ml_backends(project_id):
            if row["url"].rstrip("/") == url:
                self._delete_ml_backend(row["id"])
                done.append("ML backend")
        # After it: Label Studio makes a webhook for a backend, and leaves it when that goes.
        for hook in self.webhooks(project_id):
            if hook["url"] == f"{url}/webhook":
                self._delete_webhook(hook["id"])
                done.append("webhook")
        return list(dict.fromkeys(done))

    def _delete_ml_backend(self, backend_id: int) -> None:
        self.call("an ML backend", lambda sdk: sdk.ml.delete(id=backend_id))

"""The one place that talks to Label Studio's API; the one importer of its SDK."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, TypeVar

from ml_backend.backoff import Backoff, retry_after_s
from ml_backend.fetch import Fetcher, FetchError
from ml_backend.label_studio_connections import WEBHOOK_ACTIONS, Change, ConnectionCalls
from ml_backend.label_studio_errors import (
    ImportUncertain,
    Refused,
    Unreachable,
    missing_token,
    nothing_done,
    refusal,
    unreachable,
)
from ml_backend.label_studio_tasks import TaskCalls
from ml_backend.proxies import may_use_proxy
from ml_backend.settings import Settings

__all__ = [
    "WEBHOOK_ACTIONS",
    "Change",
    "ImportUncertain",
    "LabelStudio",
    "Refused",
    "Unreachable",
]

T = TypeVar("T")


class LabelStudio(TaskCalls, ConnectionCalls):
    """A client of one Label Studio server, safe to share between threads.

    Every method raises LabelStudioError with a hint: Refused (an HTTP status), Unreachable (no
    answer). Calls that may be repeated are, with back-off, on 429, 5xx and broken connections.

    Args:
        url: the server, with its path prefix if it has one.
        api_key: a legacy token (40 hex digits) or a personal access token, which is refreshed.
        public_url: the server as it calls itself, where that is another address than `url`.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        public_url: str = "",
        backoff: Backoff | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.public_url = public_url.rstrip("/") or self.url
        self._api_key = api_key
        self._backoff = backoff or Backoff()
        self._timeout_s = timeout_s
        self._client: Any = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings, backoff: Backoff | None = None) -> Self:
        """The client that the settings describe."""
        return cls(
            settings.label_studio_url,
            settings.label_studio_api_key,
            public_url=settings.label_studio_public_url,
            backoff=backoff,
        )

    @property
    def token_kind(self) -> str:
        """ "personal" for a JWT, else "legacy"."""
        return "personal" if self._api_key.count(".") == 2 else "legacy"

    def whoami(self) -> dict[str, Any]:
        """The user the token belongs to: id, email, active_organization ..."""
        user: dict[str, Any] = self.raw("GET", "api/current-user/whoami", "the token's user")
        return user

    def version(self) -> str:
        """The server's release, such as 1.23.2."""
        return str(self.call("the version", lambda sdk: sdk.versions.get().release))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client._client_wrapper.httpx_client.httpx_client.close()

    def create_project(self, title: str, label_config: str, **fields: Any) -> int:
        """Make a project (title: at least 3 characters) and return its id."""
        made = self.call(
            f"making project {title!r}",
            lambda sdk: sdk.projects.create(title=title, label_config=label_config, **fields),
            repeat=False,
        )
        return int(made.id)

    def project(self, project_id: int) -> dict[str, Any]:
        """The project as the API sends it."""
        # Raw: the SDK's model adds a hundred fields of other editions as None.
        path = f"api/projects/{project_id}/"
        found: dict[str, Any] = self.raw("GET", path, f"project {project_id}")
        return found

    def update_project(self, project_id: int, **fields: Any) -> None:
        """Change fields of a project; a `model_version` must exist among its predictions."""
        self.call(
            f"changing {', '.join(fields)} of project {project_id}",
            lambda sdk: sdk.projects.update(id=project_id, **fields),
        )

    def delete_project(self, project_id: int) -> None:
        """Delete a project with everything in it."""
        self.call(f"deleting project {project_id}", lambda sdk: sdk.projects.delete(id=project_id))

    def validate_config(self, project_id: int, label_config: str) -> None:
        """Raise Refused with Label Studio's reason if the project cannot have this label config."""
        self.call(
            "the label config",
            lambda sdk: sdk.projects.validate_label_config(
                id=project_id, label_config=label_config
            ),
        )

    def model_versions(self, project_id: int) -> dict[str, int]:
        """How many predictions each version has in the project."""
        # Raw: the SDK has no such call.
        path = f"api/projects/{project_id}/model-versions/"
        found: dict[str, int] = self.raw("GET", path, "the model versions")
        return found

    def fetch(self, url: str, task_id: int | None = None) -> bytes:
        """The file behind an address in task data; see `Fetcher.fetch`. Repeated as other calls."""
        fetcher = Fetcher(self.url, self._authorization, public_url=self.public_url)
        tries, renewed = 0, False
        while True:
            tries += 1
            try:
                return fetcher.fetch(url, task_id)
            except FetchError as error:
                if error.code == 401 and not renewed and self._forget_access_token():
                    renewed = True
                    continue
                if not error.transient or tries >= self._backoff.attempts:
                    raise
                wait_s = retry_after_s(error.retry_after, datetime.now(UTC))
            self._backoff.wait(tries, wait_s)

    def _authorization(self) -> dict[str, str]:
        header = self.call(
            "a token", lambda sdk: sdk._client_wrapper.get_headers()["Authorization"]
        )
        return {"Authorization": str(header)}

    # -- calls --------------------------------------------------------------------------------

    def call(self, what: str, do: Callable[[Any], T], *, repeat: bool = True) -> T:
        """Run `do` with the SDK client; `repeat` where doing it twice does no harm."""
        from httpx import HTTPError
        from label_studio_sdk.core.api_error import ApiError

        tries, renewed = 0, False
        failure: Refused | Unreachable
        while True:
            tries += 1
            wait_s = None
            try:
                return do(self._sdk())
            except ApiError as error:
                failure = refusal(what, error.status_code or 0, error.body, self.url)
                failure.__cause__ = error
                if error.status_code == 401 and not renewed and self._forget_access_token():
                    renewed = True
                    continue
                wait_s = retry_after_s((error.headers or {}).get("retry-after"), datetime.now(UTC))
            except HTTPError as error:
                failure = unreachable(self.url, what, error)
            if not failure.transient or tries >= self._backoff.attempts:
                raise failure
            if not repeat and not nothing_done(failure):
                raise failure
            self._backoff.wait(tries, wait_s)

    def raw(
        self, method: str, path: str, what: str, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON of a request that may be repeated, as the server sent it."""
        from label_studio_sdk.core.api_error import ApiError

        def do(sdk: Any) -> Any:
            http = sdk._client_wrapper.httpx_client
            response = http.request(path, method=method, params=params)
            try:
                body = response.json()
            except ValueError:
                body = None
            if not 200 <= response.status_code < 300 or body is None:
                raise ApiError(
                    status_code=response.status_code,
                    headers=dict(response.headers),
                    body=response.text if body is None else body,
                )
            return body

        return self.call(what, do)

    def _sdk(self) -> Any:
        if not self._api_key:
            raise missing_token(self.public_url)
        with self._lock:
            if self._client is None:
                # Here and not above: the import costs up to 3 s.
                import httpx
                from label_studio_sdk import LabelStudio as Sdk

                # Label Studio answers token calls with a session cookie. Sent back, it would
                # identify us beside the token, so no domain may set one.
                no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
                http = httpx.Client(
                    timeout=self._timeout_s,
                    follow_redirects=False,
                    cookies=no_cookies,
                    trust_env=may_use_proxy(self.url),
                )
                self._client = Sdk(
                    # The slash keeps a path prefix when the SDK joins its address of refreshing.
                    base_url=self.url + "/",
                    api_key=self._api_key,
                    timeout=self._timeout_s,
                    # It would repeat imports too.
                    max_retries=0,
                    httpx_client=http,
                )
            return self._client

    def _forget_access_token(self) -> bool:
        """Have the next call ask for a new access token; False where there was none.

        It lives 300 s by the server's clock, which may be ahead of the one the SDK compares with.
        """
        tokens = self._client and self._client._client_wrapper._tokens_client
        if not tokens or tokens._access_token is None:
            return False
        tokens._access_token = None
        return True

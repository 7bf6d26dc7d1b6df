"""Errors a person can act on: what was expected, what came, what to do next."""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error the backend raises on purpose; `status` is its HTTP status."""

    status: int = 400

    def __init__(self, message: str, hint: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class BadRequest(BackendError):
    """The caller sent something the protocol does not allow."""


class Unauthorised(BackendError):
    """No credentials, or wrong ones."""

    status = 401


class NotFound(BackendError):
    """The project, image, region or round asked for does not exist here."""

    status = 404


class Conflict(BackendError):
    """The request contradicts what is stored, for instance a changed label config."""

    status = 409


class TooLarge(BackendError):
    """The body is larger than the cap."""

    status = 413


class LabelStudioError(BackendError):
    """Label Studio refused, answered nonsense, or could not be reached."""

    status = 502


class NotReady(BackendError):
    """The thing asked for will exist later: no model version is published yet.

    Label Studio shows nothing then and asks again. An empty prediction it would keep for good.
    """

    status = 409


class StoreError(BackendError):
    """The database cannot be opened or is not one this release can use."""

    status = 500


class LeaseLost(BackendError):
    """Somebody else has taken over what this process worked on; it must write nothing more."""

    status = 409

    def __init__(self, name: str, holder: str | None, now: str | None) -> None:
        who = f"{now} has it" if now else "it was given back"
        super().__init__(
            f"{holder or 'this worker'} has lost the lease {name}: {who}.",
            "It was silent for longer than PIXBAL_LEASE_S. Start it again; nothing is lost.",
        )


class SettingsError(BackendError):
    """One or more settings are wrong; `faults` holds every one of them."""

    status = 500

    def __init__(self, faults: list[str], hint: str = "") -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{len(faults)} setting(s) cannot be used:\n{lines}", hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}".rstrip()

"""The one error of this package."""

from __future__ import annotations


class LabelConfigError(ValueError):
    """Classes, a labelling configuration or an answer that cannot be used; `hint`: what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

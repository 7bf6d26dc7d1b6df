"""What the steps of a round work with, and where each leaves its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_backend.errors import NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from training.config import TrainConfig


@dataclass(frozen=True)
class Runtime:
    """What the steps work with."""

    settings: Settings
    store: Store
    ls: LabelStudio

    def project(self, project_id: int) -> Project:
        """The project's row.

        Raises:
            NotFound: no such project here.
        """
        project = self.store.project(project_id)
        if project is None:
            raise NotFound(f"project {project_id} is unknown here", hint="Run `pixbal init` first.")
        return project

    def train_config(self, project: Project) -> TrainConfig:
        """The project's training config on this machine's device and threads."""
        machine = {"device": self.settings.device, "threads": self.settings.threads}
        return TrainConfig.from_json({**project.train_config, **machine})

    @property
    def features_dir(self) -> Path:
        """Features of frozen encoders, shared by training and scoring; a cache."""
        return self.settings.home / "features"

    def snapshot_dir(self, project_id: int, number: int) -> Path:
        """Frozen training input of a round."""
        return self.settings.home / "snapshots" / f"p{project_id}" / f"r{number}"

    def version_dir(self, project_id: int, number: int) -> Path:
        """Weights, config and metrics of a round."""
        return self.settings.home / "versions" / f"p{project_id}" / f"r{number}"

    def scores_path(self, project_id: int, version: str) -> Path:
        """Scores of the whole pool by a version; `NO_MODEL` is the random start."""
        return self.settings.home / "scores" / f"p{project_id}" / f"{version}.npz"


def version_name(project_id: int, number: int) -> str:
    """Name of a round's model version, unique across projects; release 0.1.0 said "r2"."""
    return f"p{project_id}-r{number}"

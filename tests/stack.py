"""A whole PixBal beside the session's Label Studio: backend and worker as real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.demo.annotator import Annotator
from ml_backend.demo.servers import backend_environment
from ml_backend.init import InitReport, InitRequest, initialise
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import BackendServer, LabelStudioServer, WorkerProcess, free_port
from ml_backend.settings import Settings, ensure_secrets
from ml_backend.store import Round, Store

# How long what must happen may take on a busy machine; shorter where it is meant not to happen.
WAIT_S = float(os.environ.get("PIXBAL_TEST_WAIT_S", "240"))
# A round in seconds: what is tested here is the way through, not the accuracy.
TINY = (
    "stage1.epochs=3", "stage1.steps_per_epoch=4", "stage2.epochs=3", "stage2.steps_per_epoch=4",
    "model.short_side=120",
)  # fmt: skip


@dataclass
class Stack:
    """Backend and worker on one home; both can be killed and started again."""

    folder: Path
    label_studio: LabelStudioServer
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        port = free_port()
        self.environment = {
            **backend_environment(self.folder, self.label_studio, port),
            "PIXBAL_POLL_S": "0.2",
            "PIXBAL_RECONCILE_S": "5",
            **self.extra,
        }
        ensure_secrets(self.folder / "pixbal")
        self.settings = Settings.from_env(self.environment)
        self.store = Store.open(self.settings.database_url)
        self.ls = LabelStudio(self.settings.label_studio_url, self.settings.label_studio_api_key)
        self.backend = BackendServer(
            env=self.environment, log=self.folder / "backend.log", port=port
        )
        self.worker = WorkerProcess(env=self.environment, log=self.folder / "worker.log")

    def stop(self) -> None:
        """Stop both processes."""
        self.worker.stop()
        self.backend.stop()
        self.ls.close()
        self.store.close()

    def init(
        self,
        images: Path,
        heldout: Path | None,
        title: str,
        budget: float,
        classes: str = "camvid",
        **more: object,
    ) -> InitReport:
        """`pixbal init` with a config that trains in seconds."""
        request = InitRequest(
            classes=classes,
            images=(str(images),),
            heldout=None if heldout is None else str(heldout),
            title=title,
            budget=budget,
            config="demo",
            overrides=TINY,
            **more,  # type: ignore[arg-type]
        )
        return initialise(self.settings, self.store, self.ls, request)

    def annotator(self, project_id: int, masks: dict[str, Path]) -> Annotator:
        """A simulated annotator of this project."""
        server = self.label_studio
        return Annotator(server.url, server.token, self.store, project_id, masks, void=11)

    def wait_for(self, what: str, true: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        """Poll until something holds; the failure quotes the worker's log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if true():
                return
            time.sleep(0.1)
        raise AssertionError(
            f"{what} did not happen in {timeout_s:g} s\n{self.worker.log_tail(60)}"
        )

    def wait_for_round(
        self, project_id: int, number: int, states: Sequence[str] = ("done",)
    ) -> Round:
        """Wait until a round is in one of these states; a failed one ends the wait."""

        def there() -> bool:
            row = self.store.round(project_id, number)
            if row is not None and row.state == "failed" and "failed" not in states:
                raise AssertionError(f"round {number} failed: {row.error}")
            return row is not None and row.state in states

        self.wait_for(f"round {number} {'/'.join(states)}", there)
        row = self.store.round(project_id, number)
        assert row is not None
        return row


def link_camvid(
    camvid: Path, folder: Path, pool: int, heldout: int
) -> tuple[Path, Path, dict[str, Path]]:
    """Lists of a few CamVid images: the pool as a .txt, the held-out ones as links, pool masks."""
    images = sorted((camvid / "train" / "images").iterdir())
    chosen = images[:: len(images) // pool][:pool]
    listing = folder / "pool.txt"
    listing.write_text("".join(f"{p}\n" for p in chosen), encoding="utf-8")
    held = folder / "heldout"
    for kind in ("images", "masks"):
        (held / kind).mkdir(parents=True)
    tests = sorted((camvid / "test" / "images").iterdir())
    for image in tests[:: len(tests) // heldout][:heldout]:
        mask = next((camvid / "test" / "masks").glob(f"{image.stem}.*"))
        (held / "images" / image.name).symlink_to(image)
        (held / "masks" / mask.name).symlink_to(mask)
    masks = {
        str(p.resolve()): next((camvid / "train" / "masks").glob(f"{p.stem}.*")) for p in chosen
    }
    return listing, held, masks

"""What each part of a round follows from: which work stands when its settings change."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from training.config import (
    AcquisitionConfig,
    AugmentConfig,
    PseudoLabelConfig,
    StageConfig,
    TrainConfig,
)
from training.versions import FINAL, STAGE1

LABELS = "pseudo_labels"  # folder of the last stage's targets, where they are kept


class Part(NamedTuple):
    """A part of a round; parts compare in the order in which they are made."""

    stage: int
    training: bool  # else the pseudo labels that the stage learns from, which stage 1 has not

    def __str__(self) -> str:
        return f"stage {self.stage}" if self.training else f"pseudo labels for stage {self.stage}"


FIRST = Part(1, True)


def parts(stages: int) -> list[Part]:
    """All parts of a round, in order."""
    later = [Part(n, training) for n in range(2, stages + 1) for training in (False, True)]
    return [FIRST, *later]


def first_touched(before: TrainConfig, after: TrainConfig) -> Part | None:
    """The first part that comes out otherwise under other settings; None if none does.

    A setting that is not known to touch less touches all.
    """
    if _of_all(before) != _of_all(after):
        return FIRST
    touched = []
    if before.pseudo_labels != after.pseudo_labels:
        touched.append(Part(2, False))
    if before.stage2 != after.stage2:  # of stage 3 and later, too
        touched.append(Part(2, True))
    if before.stages != after.stages:
        touched.append(Part(min(before.stages, after.stages) + 1, False))
    return min(touched, default=None)


def _of_all(config: TrainConfig) -> TrainConfig:
    """The settings that every stage follows from; the others at their defaults."""
    augment = config.augment
    if config.model.frozen_encoder:  # whole images, flipped: neither scaled nor cropped
        augment = AugmentConfig(hflip=augment.hflip)
    return replace(
        config.anywhere(),
        augment=augment,
        stage2=StageConfig(),
        pseudo_labels=PseudoLabelConfig(),
        acquisition=AcquisitionConfig(),
        stages=1,
    )


def weights_name(stage: int, stages: int) -> str:
    """File of a stage's weights: the last one's are those of the version."""
    if stage == 1:
        return STAGE1
    return FINAL if stage == stages else f"stage{stage}.safetensors"


def labels_name(stage: int, stages: int) -> str:
    """Folder of the pseudo labels that a stage learns from."""
    return LABELS if stage == stages else f"{LABELS}-{stage}"


def files_of(part: Part, stages: int) -> list[str]:
    """Files and folders of a part's work, whole and in progress; the record that it is done last.

    Renamed in this order, a part cut off in between is not done.
    """
    if part.training:
        stage = f"stage{part.stage}"
        return [weights_name(part.stage, stages), f"{stage}-epochs", f"{stage}.json"]
    folder = labels_name(part.stage, stages)
    return [folder, f"{folder}.json"]

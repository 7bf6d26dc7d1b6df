"""Image and target move together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import AugmentConfig
from training.transforms import (
    IMAGE_FILL,
    augment,
    pad_and_crop,
    resize_image,
    resize_nearest,
    working_size,
)

STILL = AugmentConfig(scale=(1.0, 1.0), crop=(16, 16), hflip=0.0)


def coded(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A target of two halves and an image that shows it: red 200 where the target is 1."""
    target = np.zeros((height, width), np.int32)
    target[:, width // 2 :] = 1
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 200 * target
    return image, target


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((360, 480), 240, (240, 320)),
        ((480, 360), 240, (320, 240)),
        ((360, 480), None, (360, 480)),
        ((1, 1), 240, (240, 240)),
        ((1000, 10), 32, (3200, 32)),
        ((375, 500), 240, (240, 320)),
    ],
)
def test_working_size(
    size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    assert working_size(size, short_side) == expected


def test_nearest_by_hand() -> None:
    target = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(
        resize_nearest(target, (4, 6)), target.repeat(2, axis=0).repeat(2, axis=1)
    )
    # Pixel centres: column 1 of 2 looks at (1 + .5) * 3 / 2 = 2.25 -> 2; column 0 at .75 -> 0.
    np.testing.assert_array_equal(resize_nearest(target, (2, 2)), [[0, 2], [3, 5]])
    assert resize_nearest(target, (2, 3)) is target


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_nearest_invents_nothing(height: int, width: int, new_height: int, new_width: int) -> None:
    target = np.arange(height * width).reshape(height, width)
    small = resize_nearest(target, (new_height, new_width))
    assert small.shape == (new_height, new_width)
    np.testing.assert_array_equal(small, np.sort(small, axis=1))
    assert np.isin(small, target).all()


def test_resize_image_keeps_a_flat_colour() -> None:
    image = np.full((7, 9, 3), (10, 200, 30), np.uint8)
    assert (resize_image(image, (20, 4)) == (10, 200, 30)).all()


def test_pad_centrally_then_crop() -> None:
    array = np.arange(1, 7).reshape(2, 3)
    np.testing.assert_array_equal(
        pad_and_crop(array, (4, 2), (0.0, 0.99), -1), [[-1, -1], [2, 3], [5, 6], [-1, -1]]
    )
    np.testing.assert_array_equal(pad_and_crop(array, (1, 3), (0.5, 0.0), -1), [[4, 5, 6]])


def test_without_randomness_nothing_changes() -> None:
    image, target = coded(16, 16)
    new_image, new_target = augment(image, target, -1, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_target, target)


def test_padding_has_its_fill() -> None:
    image, target = coded(8, 8)
    new_image, new_target = augment(image, target, -1, STILL, np.random.default_rng(0))
    outside = new_target == -1
    assert outside.sum() == 16 * 16 - 8 * 8
    assert (new_image[outside] == IMAGE_FILL).all()
    assert not outside[4:12, 4:12].any()


def test_flip_turns_both() -> None:
    image, target = coded(16, 16)
    config = AugmentConfig(scale=(1.0, 1.0), crop=(16, 16), hflip=1.0)
    new_image, new_target = augment(image, target, -1, config, np.random.default_rng(0))
    np.testing.assert_array_equal(new_image, image[:, ::-1])
    np.testing.assert_array_equal(new_target, target[:, ::-1])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 60))
def test_image_and_target_stay_together(seed: int, height: int, width: int) -> None:
    image, target = coded(height, width)
    config = AugmentConfig(crop=(24, 32))
    new_image, new_target = augment(image, target, 255, config, np.random.default_rng(seed))
    assert new_image.shape == (24, 32, 3)
    assert new_target.shape == (24, 32)
    assert set(np.unique(new_target)) <= {0, 1, 255}
    red = new_image[..., 0].astype(int)
    # Bilinear red differs from nearest only next to the border between the halves.
    inside = (new_target != 255) & (np.minimum(red, 200 - red) <= 0)
    np.testing.assert_array_equal(red[inside] // 200, new_target[inside])
    again = augment(image, target, 255, config, np.random.default_rng(seed))
    np.testing.assert_array_equal(again[0], new_image)
    np.testing.assert_array_equal(again[1], new_target)

"""Automatic colours: distinct, readable, clear of those that were given; alike ones are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from label_config import ClassSchema
from label_config.classes import LIKE
from label_config.colors import NEAR, close_pairs, difference
from label_config.palette import PALETTE

# What Label Studio 1.23 puts behind its choices, in its light and its dark theme.
LIGHT, DARK = "#ffffff", "#1e1d1a"
color = st.integers(0, 0xFFFFFF).map("#{:06x}".format)


def rgb(colors: list[str]) -> NDArray[np.float64]:
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors])


def distances(one: list[str], two: list[str]) -> NDArray[np.float64]:
    """CIEDE2000 by scikit-image, (N, M)."""
    first, second = (rgb2lab(rgb(colors)[None])[0] for colors in (one, two))
    found: NDArray[np.float64] = deltaE_ciede2000(first[:, None], second[None])
    return found


def closest(colors: list[str]) -> float:
    found = distances(colors, colors)
    return float(found[~np.eye(len(colors), dtype=bool)].min())


def automatic(count: int) -> list[str]:
    return [c.color for c in ClassSchema.of([f"class {i}" for i in range(count)]).classes]


@pytest.mark.parametrize(("count", "least"), [(10, 22.0), (40, 10.0), (100, 7.5), (200, 5.0)])
def test_automatic_colours_are_distinct(count: int, least: float) -> None:
    """Measured: 22.8, 10.2, 7.9 and 5.3; release 0.1.0 had 1.6 at 40 classes."""
    assert closest(automatic(count)) >= least


def test_automatic_colours_are_seen_on_light_and_dark() -> None:
    colors = automatic(100)
    assert distances(colors, [LIGHT]).min() >= 13
    assert distances(colors, [DARK]).min() >= 22
    luminance = np.array([_luminance(c) for c in [LIGHT, DARK]])
    own = np.array([[_luminance(c)] for c in colors])
    contrast = (np.maximum(own, luminance) + 0.05) / (np.minimum(own, luminance) + 0.05)
    assert contrast[:, 0].min() >= 1.4
    assert contrast[:, 1].min() >= 2.2


def _luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    value = rgb([color])[0]
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


@given(st.lists(color, min_size=2, max_size=8))
def test_the_difference_is_that_of_scikit_image(colors: list[str]) -> None:
    own = [[difference(a, b) for b in colors] for a in colors]
    assert np.allclose(own, distances(colors, colors), atol=1e-3)


@given(st.lists(color, min_size=1, max_size=20, unique=True), st.integers(1, 20))
def test_filled_in_colours_keep_clear_of_given_ones(given_colors: list[str], gaps: int) -> None:
    wanted = [*given_colors, *[None] * gaps]
    schema = ClassSchema.of([f"c{i}" for i in range(len(wanted))], wanted)
    found = [c.color for c in schema.classes]
    assert found[: len(given_colors)] == given_colors
    assert distances(found[len(given_colors) :], given_colors).min() >= LIKE - 1e-2


def test_200_classes_differ_whatever_colours_some_of_them_were_given() -> None:
    names = [f"c{i}" for i in range(200)]
    for own in (PALETTE[:100], PALETTE[50:120], [f"#{v:02x}8080" for v in range(0, 256, 2)]):
        found = [c.color for c in ClassSchema.of(names, [*own, *[None] * (200 - len(own))]).classes]
        assert len(set(found)) == 200


def test_colours_of_a_project_stay_as_they_are_stored() -> None:
    stored = ClassSchema.of(["a", "b", "c"], ["#e61717", "#73ff7d", "#262699"]).to_json()
    assert ClassSchema.from_json(stored).to_json() == stored


def test_equal_and_nearly_equal_colours_are_found() -> None:
    schema = ClassSchema.of(
        ["car", "truck", "tree", "bus"], ["#0000ff", "#0000ff", "#00ff00", "#0004f8"]
    )
    pairs = close_pairs(schema)
    assert pairs[0][:2] == ("car", "truck")
    assert {(one, two) for one, two, _ in pairs} == {
        ("car", "truck"), ("car", "bus"), ("truck", "bus"),
    }  # fmt: skip
    assert pairs[0][2] == 0.0
    assert all(apart < NEAR for *_, apart in pairs)
    assert close_pairs(ClassSchema.of([f"c{i}" for i in range(200)])) == []

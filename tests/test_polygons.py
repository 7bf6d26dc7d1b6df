"""Masks as polygons: drawn again they are the mask."""

from __future__ import annotations

import numpy as np
import pytest
from backend_helpers import make_schema
from hypothesis import given
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from label_config.mask_control import read_mask_control
from ml_backend.polygons import MIN_AREA_PX, mask_polygons, polygon_result
from training.scenes import VOID, make_scene

XML = (
    '<View><Image name="img" value="$photo"/><PolygonLabels name="seg" toName="img">'
    '<Label value="car"/><Label value="Strasse" alias="Road"/></PolygonLabels></View>'
)


def drawn(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels whose centres an odd number of polygons hold."""
    mask = np.zeros((height, width), bool)
    for points in polygons:
        corners = np.asarray(points) / 100 * (width, height)
        mask ^= polygon2mask(mask.shape, corners[:, ::-1] - 0.5)
    return mask


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_without_simplifying_every_pixel_is_kept(mask: np.ndarray) -> None:
    """Holes, holes touching by corners, islands in holes: exactly."""
    assert np.array_equal(drawn(mask_polygons(mask, 0.0, 0.0), *mask.shape), mask)


def test_one_pixel_is_its_four_corners() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    (ring,) = mask_polygons(mask, min_area_px=0.0)
    assert {tuple(point) for point in ring} == {(40, 25), (60, 25), (60, 50), (40, 50)}


def test_a_hole_stays_empty_and_a_small_one_is_filled() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    mask[10:20, 10:20] = False  # 100 px
    mask[25:29, 25:29] = False  # 16 px
    (ring,) = mask_polygons(mask)
    expected = mask.copy()
    expected[25:29, 25:29] = True
    assert np.array_equal(drawn([ring], 40, 40), expected)
    x, y = (ring * 40 / 100).T
    # Shoelace: around the hole the other way, so filling by winding numbers leaves it empty too.
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == expected.sum()
    assert len(ring) == 4 + 4 + 2  # two squares, and where the cut begins and ends once more


def test_small_components_are_left_out_and_large_ones_come_first() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0:5, 0:5] = True  # 25 px, the limit
    mask[10:14, 0:6] = True  # 24 px
    mask[20:40, 20:40] = True
    assert MIN_AREA_PX == 25.0
    large, small = mask_polygons(mask)
    assert large.min() == 50
    assert small.max() == 12.5


def test_thin_things_do_not_vanish() -> None:
    mask = np.zeros((100, 30), bool)
    mask[10:90, 7] = True
    (ring,) = mask_polygons(mask)
    assert np.array_equal(drawn([ring], 100, 30), mask)


@pytest.mark.parametrize("seed", range(4))
def test_scenes_survive_simplification(seed: int) -> None:
    """IoU > .9 for every class of a street scene that covers more than 0.1 % of it."""
    _, mask = make_scene(np.random.default_rng(seed))
    points = 0
    for index in range(VOID):
        wanted = mask == index
        if wanted.sum() <= 0.001 * mask.size:
            continue
        polygons = mask_polygons(wanted)
        points += sum(map(len, polygons))
        found = drawn(polygons, *mask.shape)
        assert (found & wanted).sum() / (found | wanted).sum() > 0.9
    assert points < 2000


def test_nothing_set_is_no_polygon() -> None:
    assert mask_polygons(np.zeros((3, 3), bool)) == []


def test_result_names_control_labels_and_size() -> None:
    control = read_mask_control(XML, make_schema("Road", "Sky", "Car"))
    mask = np.zeros((20, 40), np.uint8)
    mask[:10], mask[10:, 20:] = 1, 2
    masks = {name: (mask == i).astype(np.uint8).tobytes() for i, name in enumerate(control.stored)}
    assert list(masks) == ["Road", "Car"]
    masks["Sky"] = masks["Road"]  # offered by no label
    road, car = polygon_result(masks, 40, 20, control)
    assert car["value"] == {
        "points": [[0.0, 0.0], [0.0, 50.0], [100.0, 50.0], [100.0, 0.0]],
        "closed": True,
        "polygonlabels": ["car"],
    }
    assert road["value"]["polygonlabels"] == ["Road"]
    assert {k: v for k, v in road.items() if k != "value"} == {
        "id": "mask-0-0", "from_name": "seg", "to_name": "img", "type": "polygonlabels",
        "original_width": 40, "original_height": 20, "image_rotation": 0,
    }  # fmt: skip

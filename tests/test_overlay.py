"""Pictures of a region: the outline lies where it should, the pixels stay true."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from ml_backend.errors import BackendError, NotFound
from ml_backend.overlay import crop_window, draw_crop, draw_locator
from training.regions import RegionMap

GREY = 128
SIZE = 768
MAGENTA = np.array([255, 64, 255])
RING_PX = 6  # widths of the outline's lines together


def region_map(inside):
    """Map of two regions: 1 inside, 0 outside; only region 0 if everything is inside."""
    ids = np.asarray(inside).astype(np.int32)
    if ids.all():
        ids[:] = 0
    return RegionMap(ids, int(ids.max()) + 1, "grid", {})


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def decode(data):
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def line(picture):
    """Pixels of the bright line, JPEG allowed for."""
    return np.abs(picture.astype(int) - MAGENTA).max(axis=2) < 60


def box(mask):
    ys, xs = np.nonzero(mask)
    return ys.min(), xs.min(), ys.max() + 1, xs.max() + 1


def test_the_outline_lies_just_outside_the_region_on_every_side():
    inside = np.zeros((192, 192), bool)
    inside[80:112, 72:120] = True  # 48 px wide, so the window is 96 px and the scale is 8
    assert crop_window(inside.astype(np.uint8)) == (48, 48, 144, 144)
    picture = decode(draw_crop(grey(192, 192), region_map(inside), 1))
    assert picture.shape == (SIZE, SIZE, 3)
    y0, x0, y1, x1 = (80 - 48) * 8, (72 - 48) * 8, (112 - 48) * 8, (120 - 48) * 8
    # One dark px, then three bright ones: the line begins 2 px outside and ends 4 px outside.
    assert box(line(picture)) == (y0 - 4, x0 - 4, y1 + 4, x1 + 4)
    region = picture[y0 + 8 : y1 - 8, x0 + 8 : x1 - 8].astype(int)
    assert np.abs(region - GREY).max() <= 3
    assert not line(picture)[y0:y1, x0:x1].any()
    # The dark halo: somewhere within the ring every row that crosses the region gets dark.
    assert picture[(y0 + y1) // 2, x0 - 8 : x0].max(axis=1).min() < 90


@pytest.mark.parametrize("shape", ["disc", "ring", "comb"])
def test_the_line_follows_the_boundary_of_any_shape(shape):
    ys, xs = np.mgrid[:120, :120]
    far = np.hypot(ys - 60, xs - 60)
    inside = {
        "disc": far < 30,
        "ring": (far < 40) & (far > 20),
        "comb": (far < 35) & ((xs // 8) % 2 == 0) | ((abs(ys - 60) < 4) & (abs(xs - 60) < 34)),
    }[shape]
    data = draw_crop(grey(120, 120), region_map(inside), 1)
    y0, x0, y1, x1 = crop_window(inside.astype(np.uint8))
    picture = decode(data)
    scale = SIZE / max(y1 - y0, x1 - x0)
    mask = cv2.resize(
        inside[y0:y1, x0:x1].astype(np.uint8),
        picture.shape[1::-1],
        interpolation=cv2.INTER_NEAREST_EXACT,
    )
    away = ndimage.distance_transform_edt(mask == 0)
    found = line(picture)
    assert away[found].min() >= 1
    assert away[found].max() <= RING_PX
    # Complete: from every pixel of the region's rim a bright pixel is within reach.
    rim = mask.astype(bool) & ~ndimage.binary_erosion(mask, border_value=1)
    to_line = ndimage.distance_transform_edt(~found)
    assert to_line[rim].max() <= RING_PX
    assert scale > 4


@pytest.mark.parametrize("brightness", ["dark", "light"])
def test_the_outline_stands_out_on_dark_and_light_images(brightness):
    image = grey(128, 128)
    image[:] = 5 if brightness == "dark" else 250
    inside = np.zeros((128, 128), bool)
    inside[40:80, 40:80] = True
    luma = cv2.cvtColor(decode(draw_crop(image, region_map(inside), 1)), cv2.COLOR_RGB2GRAY)
    values = luma.astype(int)
    assert values.max() - values.min() > 100


def test_pixels_well_inside_a_region_of_a_photograph_are_those_of_the_photograph(camvid):
    image = decode(sorted((camvid / "test" / "images").glob("*.jpg"))[0].read_bytes())
    inside = np.zeros(image.shape[:2], bool)
    inside[150:220, 200:280] = True
    picture = decode(draw_crop(image, region_map(inside), 1))
    y0, x0, y1, x1 = crop_window(inside.astype(np.uint8))
    true = cv2.resize(image[y0:y1, x0:x1], picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(inside[y0:y1, x0:x1].astype(np.uint8), picture.shape[1::-1])
    away = ndimage.distance_transform_edt(mask == 0)
    deep = ndimage.distance_transform_edt(mask) > 16
    for part in (deep, away > 32):  # 16 px: no JPEG block of 8 px shares a pixel with the line
        error = np.abs(picture.astype(int) - true)[part]
        assert error.mean() < 2
        assert np.percentile(error, 99.9) <= 16


@pytest.mark.parametrize("corner", ["top left", "bottom right"])
def test_a_region_at_the_border_of_the_image_is_closed_beyond_it(corner):
    inside = np.zeros((100, 140), bool)
    inside[(np.s_[:30, :30] if corner == "top left" else np.s_[-30:, -30:])] = True
    picture = decode(draw_crop(grey(100, 140), region_map(inside), 1))
    assert picture.shape == (SIZE + RING_PX, SIZE + RING_PX, 3)
    top, left, bottom, right = box(line(picture))
    side = 30 * 8
    if corner == "top left":
        assert (top, left) == (2, 2)
        assert (bottom, right) == (RING_PX + side + 4, RING_PX + side + 4)
    else:
        assert (bottom, right) == (SIZE + 4, SIZE + 4)
        assert (top, left) == (SIZE - side - 4, SIZE - side - 4)


def test_a_region_of_one_pixel_is_outlined():
    inside = np.zeros((200, 200), bool)
    inside[100, 100] = True
    picture = decode(draw_crop(grey(200, 200), region_map(inside), 1))
    top, left, bottom, right = box(line(picture))
    assert (bottom - top, right - left) == (8 + 8, 8 + 8)
    assert line(decode(draw_locator(grey(200, 200), region_map(inside), 1))).any()


def test_an_image_of_one_pixel_can_be_shown():
    whole = RegionMap(np.zeros((1, 1), np.int32), 1, "grid", {})
    for draw in (draw_crop, draw_locator):
        picture = decode(draw(np.full((1, 1, 3), 200, np.uint8), whole, 0))
        assert abs(int(picture[picture.shape[0] // 2, picture.shape[1] // 2, 0]) - 200) <= 3


def test_a_region_as_large_as_the_image_is_shown_whole():
    whole = RegionMap(np.zeros((1000, 2000), np.int32), 1, "grid", {})
    picture = decode(draw_crop(grey(1000, 2000), whole, 0))
    assert picture.shape == (384 + 2 * RING_PX, SIZE + 2 * RING_PX, 3)
    assert box(line(picture)) == (2, 2, 384 + 2 * RING_PX - 2, SIZE + 2 * RING_PX - 2)
    assert np.abs(picture[40:-40, 40:-40].astype(int) - GREY).max() <= 3


def test_a_thin_region_survives_reduction():
    inside = np.zeros((1500, 3000), bool)
    inside[700, 20:2980] = True
    assert line(decode(draw_crop(grey(1500, 3000), region_map(inside), 1))).sum() > 1000
    assert line(decode(draw_locator(grey(1500, 3000), region_map(inside), 1))).sum() > 1000


def test_a_strip_one_pixel_high_can_be_shown():
    ids = np.repeat(np.arange(2, dtype=np.int32), 5000)[None]
    strip = RegionMap(ids, 2, "grid", {})
    for draw in (draw_crop, draw_locator):
        assert decode(draw(grey(1, 10000), strip, 1)).size


def test_the_locator_shows_the_whole_image_and_boxes_the_crop():
    inside = np.zeros((360, 480), bool)
    inside[100:160, 200:280] = True
    image = grey(360, 480)
    image[:, :240] = 60
    picture = decode(draw_locator(image, region_map(inside), 1, width_px=960))
    assert picture.shape == (720, 960, 3)
    assert abs(int(picture[700, 100, 0]) - 60) <= 3
    assert abs(int(picture[700, 900, 0]) - GREY) <= 3
    assert box(line(picture)) == (200 - 3, 400 - 3, 320 + 3, 560 + 3)
    yellow = (picture[..., 0] > 180) & (picture[..., 1] > 160) & (picture[..., 2] < 110)
    expected = np.array(crop_window(inside.astype(np.uint8))) * 2
    assert np.abs(np.array(box(yellow)) - expected).max() <= 1


def test_a_tall_image_stays_within_the_width():
    whole = RegionMap(np.zeros((900, 90), np.int32), 1, "grid", {})
    assert decode(draw_locator(grey(900, 90), whole, 0)).shape == (640, 64, 3)


def test_the_image_handed_in_stays_as_it_was():
    inside = np.zeros((64, 64), bool)
    inside[10:50, 10:50] = True
    image = grey(64, 64)
    draw_crop(image, region_map(inside), 1, size_px=64)
    draw_locator(image, region_map(inside), 1, width_px=64)
    assert (image == GREY).all()


def test_the_same_question_gives_the_same_bytes():
    inside = np.zeros((64, 64), bool)
    inside[10:50, 10:50] = True
    assert draw_crop(grey(64, 64), region_map(inside), 1) == draw_crop(
        grey(64, 64), region_map(inside), 1
    )


def test_a_wrong_image_or_region_is_refused():
    whole = RegionMap(np.zeros((8, 9), np.int32), 1, "grid", {})
    with pytest.raises(BackendError, match=r"\(8, 9, 3\).*\(9, 8, 3\)"):
        draw_crop(grey(9, 8), whole, 0)
    with pytest.raises(BackendError, match="float64"):
        draw_locator(grey(8, 9) / 1.0, whole, 0)
    for index in (1, -1):
        with pytest.raises(NotFound, match="0 to 0"):
            draw_crop(grey(8, 9), whole, index)


@pytest.mark.parametrize(("height", "width"), [(360, 480), (1024, 2048)])
def test_pictures_of_any_image_fit_their_frame(height, width):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    ids = (np.arange(height)[:, None] // 40) * -(-width // 40) + np.arange(width) // 40
    tiles = RegionMap(ids.astype(np.int32), int(ids.max()) + 1, "grid", {})
    crop, locator = (decode(draw(image, tiles, 30)) for draw in (draw_crop, draw_locator))
    assert max(crop.shape[:2]) in range(SIZE, SIZE + 2 * RING_PX + 1)
    assert locator.shape == (round(640 * height / width), 640, 3)
    assert line(crop).any()
    assert line(locator).any()

"""Brush masks: the packed run lengths of Label Studio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from label_config import ClassSchema, LabelConfigError, decode_rle, encode_rle
from label_config.brush import mask_result, read_masks
from label_config.mask_control import template_control

CAMVID = template_control(ClassSchema.load("camvid"))

# A 3 x 1 mask 0 1 1 as RGBA is 4 zeros and 8 times 255, so 12 values, word size 8, run sizes
# 4 8 12 16; worked out by hand:
HEADER = f"{12:032b}" + f"{7:05b}" + "0011" + "0111" + "1011" + "1111"
RUNS = ("1" + "00" + "0011" + "00000000") + ("1" + "00" + "0111" + "11111111")


def packed(bits):
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_a_small_mask_packs_to_the_bits_of_the_format():
    assert encode_rle(b"\x00\x01\x01", 3, 1) == packed(HEADER + RUNS)
    assert decode_rle(packed(HEADER + RUNS), 3, 1) == b"\x00\x01\x01"


def test_values_in_full_are_read_too():
    # What the browser writes for a stroke with soft edges: alpha 0, 127 and 128.
    values = [0, 0, 0, 0, 9, 9, 9, 127, 9, 9, 9, 128]
    block = "0" + "00" + f"{11:04b}" + "".join(f"{value:08b}" for value in values)
    assert decode_rle(packed(HEADER + block), 3, 1) == b"\x00\x00\x01"


@given(st.data())
def test_decoding_what_was_encoded_gives_the_same_mask(data):
    width, height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    size = width * height
    runs = st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 1])), max_size=12)
    mask = b"".join(bytes([value]) * run for run, value in data.draw(runs))[:size]
    mask = mask.ljust(size, b"\x00")
    assert decode_rle(encode_rle(mask, width, height), width, height) == mask
    assert decode_rle(encode_rle(mask.replace(b"\x01", b"\xff"), width, height), width, height) == (
        mask
    )


def test_runs_longer_than_the_longest_block_are_split():
    size = 65536 // 4
    for pixels in (size - 1, size, size + 1, 3 * size):
        assert decode_rle(encode_rle(bytes([1]) * pixels, pixels, 1), pixels, 1) == b"\x01" * pixels


def test_a_city_scene_of_many_runs_goes_there_and_back():
    mask = b"".join(bytes([i % 2]) * 16 for i in range(128)) * 1024  # 131,072 runs
    assert decode_rle(encode_rle(mask, 2048, 1024), 2048, 1024) == mask


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ([], "too short"),
        ([256], "not bytes"),
        (["a"], "not bytes"),
        (packed(HEADER), "too early"),
        (packed(HEADER + RUNS)[:-2], "too early"),
        (packed(f"{16:032b}" + HEADER[32:] + RUNS), "16 values"),
        (packed(HEADER[:32] + "01111" + HEADER[37:] + RUNS), "16 bits"),
        (packed(HEADER + "1" + "00" + "1111" + "1" * 8), "too many"),
    ],
)
def test_damaged_data_are_refused(rle, words):
    with pytest.raises(LabelConfigError, match=words):
        decode_rle(rle, 3, 1)


def test_impossible_sizes_are_refused():
    with pytest.raises(LabelConfigError, match="Expected 2 x 2 mask values, got 3"):
        encode_rle(b"\x00\x01\x01", 2, 2)
    with pytest.raises(LabelConfigError, match="0 x 1 px"):
        decode_rle(packed(HEADER + RUNS), 0, 1)
    with pytest.raises(LabelConfigError, match="100000 x 100000 px"):
        decode_rle(packed(HEADER + RUNS), 100_000, 100_000)


def test_masks_of_classes_go_to_a_result_and_back():
    masks = {"Road": b"\x01\x00\x00\x01", "Car": b"\x00\x01\x00\x00", "Sky": b"\x00" * 4}
    result = mask_result(masks, 2, 2, CAMVID)
    assert [item["value"]["brushlabels"] for item in result] == [["3"], ["8"]]
    assert {item["from_name"] for item in result} == {"mask"}
    assert read_masks(result, CAMVID) == {
        "Road": (masks["Road"], 2, 2), "Car": (masks["Car"], 2, 2),
    }  # fmt: skip


def test_strokes_of_one_class_are_united():
    first = mask_result({"Road": b"\x01\x00\x00\x00"}, 2, 2, CAMVID)
    second = mask_result({"Road": b"\x00\x00\x01\x01"}, 2, 2, CAMVID)
    assert read_masks(first + second, CAMVID) == {"Road": (b"\x01\x00\x01\x01", 2, 2)}
    other = mask_result({"Road": b"\x01"}, 1, 1, CAMVID)
    with pytest.raises(LabelConfigError, match="in one image"):
        read_masks(first + other, CAMVID)


def test_unknown_classes_and_missing_sizes_are_refused():
    (item,) = mask_result({"Road": b"\x01"}, 1, 1, CAMVID)
    for broken in (
        {**item, "value": {**item["value"], "brushlabels": ["99"]}},
        {**item, "value": {**item["value"], "brushlabels": ["3", "8"]}},
        {**item, "original_width": None},
        {**item, "value": {}},
    ):
        with pytest.raises(LabelConfigError, match="cannot be read"):
            read_masks([broken], CAMVID)

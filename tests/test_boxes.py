"""Box arithmetic against worked examples and a slow, plain oracle."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trackverse import boxes, pairs

WHOLE_BOXES = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 7), st.just(4)), elements=st.integers(-10, 30).map(float)
)  # of whole pixels, so that an oracle can count them; some of them reversed
GOOD_BOXES = WHOLE_BOXES.map(lambda xyxy: np.concatenate([xyxy[:, :2], xyxy[:, :2] + np.abs(xyxy[:, 2:]) + 1], axis=1))


@given(GOOD_BOXES)
def test_conversions_come_back_to_where_they_began(xyxy: np.ndarray) -> None:
    before = xyxy.copy()
    np.testing.assert_allclose(boxes.tlwh_to_xyxy(boxes.xyxy_to_tlwh(xyxy)), xyxy)
    np.testing.assert_array_equal(xyxy, before)  # nothing is done to the caller's array


def test_the_two_formats_of_one_box() -> None:
    xyxy = np.array([[10.0, 20.0, 40.0, 80.0]])
    assert boxes.xyxy_to_tlwh(xyxy).tolist() == [[10, 20, 30, 60]]
    assert boxes.area(xyxy).tolist() == [1800]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_and_none_is_normal(dtype: type) -> None:
    none, two = np.zeros((0, 4), dtype), np.array([[0, 0, 2, 2], [1, 1, 3, 3]], dtype)
    for convert in (boxes.xyxy_to_tlwh, boxes.tlwh_to_xyxy):
        assert convert(none).shape == (0, 4)
        assert convert(two).dtype == dtype
    assert boxes.iou(none, two).shape == (0, 2)
    assert boxes.iou(two, none).shape == (2, 0)
    assert boxes.iou(two, two).dtype == dtype
    assert boxes.nms(none.astype(np.float32), np.zeros(0, np.float32), 0.5).shape == (0,)


IOUS = {
    "the same box": ((0, 0, 4, 4), (0, 0, 4, 4), 1),
    "half beside": ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3),
    "one within the other": ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
    "side by side, touching": ((0, 0, 4, 4), (4, 0, 8, 4), 0),
    "half a pixel apart": ((0, 0, 10, 10), (10.5, 0, 20.5, 10), 0),  # counted in whole pixels, 0.023
    "small ones, half beside": ((0, 0, 8, 8), (4, 0, 12, 8), 1 / 3),  # ..., 0.385
    "apart, in shares of the frame": ((0.1, 0.1, 0.2, 0.2), (0.3, 0.3, 0.4, 0.4), 0),  # ..., 0.175
    "far away": ((0, 0, 4, 4), (9, 9, 12, 12), 0),
    "apart in y alone": ((0, 0, 4, 4), (0, 9, 4, 12), 0),
    "an empty box with itself": ((2, 2, 2, 2), (2, 2, 2, 2), 0),
    "an empty box within a box": ((0, 0, 4, 4), (2, 2, 2, 2), 0),
    "a reversed box": ((0, 0, 4, 4), (3, 3, 1, 1), 0),
}


@pytest.mark.parametrize(("a", "b", "score"), IOUS.values(), ids=IOUS)
def test_iou(a: tuple[float, ...], b: tuple[float, ...], score: float) -> None:
    assert boxes.iou(np.array([a], np.float64), np.array([b], np.float64)).item() == pytest.approx(score)
    assert boxes.iou(np.array([b], np.float64), np.array([a], np.float64)).item() == pytest.approx(score)


@given(WHOLE_BOXES, WHOLE_BOXES)
def test_iou_counts_the_pixels_that_two_boxes_share(a: np.ndarray, b: np.ndarray) -> None:
    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        left, top, right, bottom = map(int, box)
        return set(itertools.product(range(left, right), range(top, bottom)))

    shared = [[len(pixels(one) & pixels(other)) for other in b] for one in a]
    together = [[len(pixels(one) | pixels(other)) for other in b] for one in a]
    expected = np.array(shared).reshape(len(a), len(b)) / np.maximum(np.array(together).reshape(len(a), len(b)), 1)
    np.testing.assert_allclose(boxes.iou(a, b), expected)
    assert boxes.area(a).tolist() == [len(pixels(box)) for box in a]


UPRIGHT = {
    "the same": ((0, 0, 10, 20), 1.0),
    "as high, half beside": ((5, 0, 15, 20), 1 / 3),
    "half as high": ((0, 0, 10, 10), 0.5 * 0.5**0.5),
    "half above": ((0, 10, 10, 30), 1 / 3 * (1 / 3) ** 0.5),
    "apart": ((20, 0, 30, 20), 0.0),
    "empty": ((5, 5, 5, 5), 0.0),
}


@pytest.mark.parametrize("other, score", UPRIGHT.values(), ids=UPRIGHT)
def test_upright_iou(other: tuple[float, ...], score: float) -> None:
    a, b = (boxes.measured(np.array([box], np.float64).T) for box in ((0, 0, 10, 20), other))
    assert boxes.upright_iou(a, b)[0].item() == boxes.upright_iou(b, a)[0].item() == pytest.approx(score)
    assert boxes.upright_iou(a[:, :0], b[:, :0])[0].shape == (0,)


def hidden_share(xyxy: np.ndarray) -> np.ndarray:
    columns = boxes.measured(xyxy.T)
    i, j = boxes.near_pairs(xyxy, xyxy)
    _, common_area = boxes.upright_iou(columns.take(i, axis=1), columns.take(j, axis=1))
    return boxes.hidden_share(columns, i, common_area * (xyxy[i, 3] < xyxy[j, 3]))


def test_what_stands_nearer_hides_what_is_behind() -> None:
    back, front, beside = (0, 0, 10, 20), (5, 2, 15, 22), (10, 0, 20, 20)
    assert hidden_share(np.array([back, front, beside], np.float64)) == pytest.approx([0.45, 0, 0.45])
    assert hidden_share(np.array([back], np.float64)).tolist() == [0]
    assert hidden_share(np.zeros((0, 4))).shape == (0,)


@given(GOOD_BOXES)
def test_hidden_shares_are_those_of_all_pairs(xyxy: np.ndarray) -> None:
    def covered(a: np.ndarray, b: np.ndarray) -> float:
        size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
        return float(size.prod() / boxes.area(a)) if b[3] > a[3] else 0.0

    expected = [max((covered(one, other) for other in xyxy), default=0.0) for one in xyxy]
    assert hidden_share(xyxy).tolist() == pytest.approx(expected)


@given(GOOD_BOXES, GOOD_BOXES, st.sampled_from([0.01, 1.0, 1e4]))
def test_near_pairs_are_all_that_overlap_and_none_far_apart(a: np.ndarray, b: np.ndarray, scale: float) -> None:
    a, b = a * scale, b * scale
    i, j = boxes.near_pairs(a, b)
    near = set(zip(i.tolist(), j.tolist(), strict=True))
    assert {tuple(pair) for pair in np.argwhere(boxes.iou(a, b) > 0).tolist()} <= near
    assert (np.diff(i) >= 0).all() and len(near) == len(i)
    gaps = np.maximum(a[i, :2] - b[j, 2:], b[j, :2] - a[i, 2:])
    assert (gaps < 2).all() or np.abs([a[i], b[j]]).max() > pairs.PIXEL_LIMIT


@given(GOOD_BOXES, GOOD_BOXES, st.integers(1, 5), st.randoms(use_true_random=False))
def test_near_pairs_of_groups_are_those_of_each_group(a: np.ndarray, b: np.ndarray, num: int, random: Random) -> None:
    group_a = np.array([random.randrange(num) for _ in a], np.int64)
    group_b = np.array([random.randrange(num) for _ in b], np.int64)
    i, j = boxes.near_pairs_of_groups(a, group_a, b, group_b, num)
    near = set(zip(i.tolist(), j.tolist(), strict=True))
    same_group = group_a[:, None] == group_b
    assert {tuple(pair) for pair in np.argwhere((boxes.iou(a, b) > 0) & same_group).tolist()} <= near
    assert same_group[i, j].all() and len(near) == len(i)
    gaps = np.maximum(a[i, :2] - b[j, 2:], b[j, :2] - a[i, 2:])
    assert (gaps < 2).all() or np.abs([a[i], b[j]]).max() > pairs.PIXEL_LIMIT


def test_the_widest_box_reaches_into_no_other_group() -> None:
    limit = float(pairs.PIXEL_LIMIT)
    leftmost, rightmost, widest = [-limit, 0.0, 1.0, 1.0], [limit, 0.0, limit + 1, 1.0], [-limit, 0.0, limit, 1.0]
    i, j = boxes.near_pairs_of_groups(
        np.array([leftmost]), np.array([1]), np.array([rightmost, widest]), np.array([0, 1]), 2
    )
    assert (i.tolist(), j.tolist()) == ([0], [1])


def test_boxes_are_cut_to_the_frame() -> None:
    xyxy = np.array([[-5.0, -5.0, 700.0, 400.0], [10.0, 20.0, 30.0, 40.0], [650.0, 10.0, 700.0, 20.0]])
    expected = [[0, 0, 640, 360], [10, 20, 30, 40], [640, 10, 640, 20]]
    assert boxes.clip_to_frame(xyxy, (360, 640)).tolist() == expected


# ---- non-maximum suppression


@given(GOOD_BOXES, st.data())
def test_nms_keeps_a_box_unless_a_better_kept_one_covers_it(xyxy: np.ndarray, data: st.DataObject) -> None:
    scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(xyxy), max_size=len(xyxy))))
    max_iou = data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    overlaps = boxes.iou(xyxy, xyxy)
    kept: list[int] = []
    for row in sorted(range(len(xyxy)), key=lambda row: (-scores[row], row)):
        if all(overlaps[row, other] <= max_iou for other in kept):
            kept.append(row)
    assert boxes.nms(xyxy, scores, max_iou).tolist() == kept


def test_what_a_dropped_box_covered_may_stay() -> None:
    """A chain: the middle one goes with the first, so nothing is left that covers the third."""
    chain = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    assert boxes.nms(chain, np.array([0.9, 0.8, 0.7], np.float32), 0.3).tolist() == [0, 2]
    assert boxes.nms(chain, np.array([0.7, 0.9, 0.8], np.float32), 0.3).tolist() == [1]

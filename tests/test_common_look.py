"""What the objects of a class have in common is taken off, as far as they look more alike than they may."""

from __future__ import annotations

import numpy as np
import pytest

from trackverse.common_look import CENTRE_PRIOR, FIRST_STEP_S, CommonLook
from trackverse.vectors import unit

NUM_OBJECTS, DIM = 100, 256


def looks(rng: np.random.Generator, common: float, num: int = NUM_OBJECTS) -> np.ndarray:
    """Different objects, to whose looks so much of one direction is added that this is the cosine between them."""
    own = unit(rng.normal(size=(num, DIM)).astype(np.float32))
    shared = np.zeros(DIM, np.float32)
    shared[0] = 1
    own[:, 0] = 0
    return unit(np.float32(np.sqrt(common)) * shared + np.float32(np.sqrt(1 - common)) * unit(own))


def likeness(embeddings: np.ndarray) -> float:
    """Mean cosine of two."""
    cosines = embeddings @ embeddings.T
    return float(cosines[np.triu_indices(len(cosines), 1)].mean())


def learnt(embeddings: np.ndarray, labels: np.ndarray, max_likeness: float = 0.3) -> CommonLook:
    common = CommonLook(max_likeness)
    common.learn(0.0, embeddings, labels)
    return common


@pytest.mark.parametrize("max_likeness", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("before", [0.6, 0.9, 0.99])
def test_different_objects_come_to_be_as_alike_as_they_may(before: float, max_likeness: float) -> None:
    embeddings, labels = looks(np.random.default_rng(0), before), np.zeros(NUM_OBJECTS, np.int64)
    common = learnt(embeddings, labels, max_likeness)
    after = common.taken_off(embeddings, labels)
    assert likeness(embeddings) == pytest.approx(before, abs=0.01)
    # With few others in view, not all that should be is taken off.
    assert common.is_needed and max_likeness - 0.02 < likeness(after) < max_likeness + 0.12
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("before, max_likeness", [(0.2, 0.3), (0.6, 1.0)], ids=["as alike as that", "all allowed"])
def test_nothing_is_taken_off_what_is_different_enough(before: float, max_likeness: float) -> None:
    embeddings, labels = looks(np.random.default_rng(0), before), np.zeros(NUM_OBJECTS, np.int64)
    common = learnt(embeddings, labels, max_likeness)
    assert not common.is_needed
    np.testing.assert_allclose(common.taken_off(embeddings, labels), embeddings, atol=1e-6)


def test_two_of_the_same_look_stay_finite() -> None:
    embeddings, labels = np.tile(looks(np.random.default_rng(0), 0.5, 1), (50, 1)), np.zeros(50, np.int64)
    assert np.isfinite(learnt(embeddings, labels, 0.0).taken_off(embeddings, labels)).all()


def test_each_class_has_its_own_in_common() -> None:
    """People are alike, cars are alike in another way, and dogs are all different."""
    rng = np.random.default_rng(0)
    people, cars, dogs = looks(rng, 0.8), looks(rng, 0.8)[:, ::-1], looks(rng, 0.0)
    embeddings, labels = np.concatenate([people, cars, dogs]), np.repeat([7, 3, 5], NUM_OBJECTS)
    after = np.split(learnt(embeddings, labels).taken_off(embeddings, labels), 3)
    assert [likeness(own) for own in after] == [pytest.approx(x, abs=0.12) for x in (0.3, 0.3, 0.0)]
    np.testing.assert_allclose(after[2], dogs, atol=1e-6)


def test_an_object_alone_of_its_class_keeps_its_look() -> None:
    rng = np.random.default_rng(0)
    embeddings, labels = looks(rng, 0.9), np.array([1] + [2] * (NUM_OBJECTS - 1))
    common = learnt(embeddings, labels)
    np.testing.assert_allclose(common.taken_off(embeddings, labels)[0], embeddings[0], atol=1e-6)
    unseen = np.full(NUM_OBJECTS, 4)
    np.testing.assert_allclose(common.taken_off(embeddings, unseen), embeddings, atol=1e-6)


def test_with_few_others_in_view_little_is_taken_off() -> None:
    embeddings, labels = looks(np.random.default_rng(0), 0.9, 3), np.zeros(3, np.int64)
    after = learnt(embeddings, labels, 0.0).taken_off(embeddings, labels)
    expected = unit(embeddings - np.float32(2 / (2 + CENTRE_PRIOR)) * embeddings.mean(axis=0))
    np.testing.assert_allclose(after, expected, atol=1e-6)


def test_a_frame_in_which_no_look_is_known_says_nothing() -> None:
    nothing, labels = np.zeros((4, DIM), np.float32), np.zeros(4, np.int64)
    common = learnt(nothing, labels)
    assert not common.is_needed and not common.taken_off(nothing, labels).any()
    embeddings = looks(np.random.default_rng(0), 0.9)
    common.learn(FIRST_STEP_S, embeddings, np.zeros(NUM_OBJECTS, np.int64))
    assert common.is_needed


def test_unknown_looks_stay_unknown_and_say_nothing() -> None:
    embeddings, labels = looks(np.random.default_rng(0), 0.9), np.zeros(NUM_OBJECTS, np.int64)
    with_unknown = np.concatenate([embeddings, np.zeros((20, DIM), np.float32)])
    after = learnt(with_unknown, np.zeros(len(with_unknown), np.int64)).taken_off(with_unknown, np.zeros(120, np.int64))
    np.testing.assert_allclose(after[:NUM_OBJECTS], learnt(embeddings, labels).taken_off(embeddings, labels), atol=1e-6)
    assert not after[NUM_OBJECTS:].any()


def test_frames_are_learnt_from_less_and_less_often() -> None:
    rng, labels = np.random.default_rng(0), np.zeros(NUM_OBJECTS, np.int64)
    embeddings = looks(rng, 0.9)
    common, learnt_at_s = CommonLook(0.3), []
    for time_s in (np.arange(1600) / 100).tolist():
        before = common.taken_off(embeddings, labels) if time_s else None
        common.learn(time_s, looks(rng, 0.5), labels)
        if before is None or not np.array_equal(common.taken_off(embeddings, labels), before):
            learnt_at_s.append(time_s)
    assert learnt_at_s == [0.0, FIRST_STEP_S, 3.0, 7.0, 11.0, 15.0]

"""What the looks of tracks tell: tracks one beside the other against each on its own, and all pairs one by one."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import combinations, compress, pairwise

import numpy as np
import pytest

from trackverse import looks, pairs
from trackverse.looks import CHANGE_WINDOW, LookModel, Scatter
from trackverse.types import LOOK_FRAMES, Track

MODEL = LookModel(within=0.3, between=0.5, num_dims=10.0)
MIN_EVIDENCE = 2.0


def make_track(rng: np.random.Generator, num_looks: int, num_changes: int = 0, dim: int = 24) -> Track:
    """An object whose look changes now and then. Some looks are hardly seen, some unknown."""
    length = max(num_looks * LOOK_FRAMES - int(rng.integers(LOOK_FRAMES)), 1)
    changed = np.isin(np.arange(num_looks), rng.integers(0, max(num_looks, 1), num_changes))
    means = rng.normal(0, 0.2, (num_changes + 1, dim))[np.cumsum(changed)]
    weights = rng.choice([0.5, 4.0, LOOK_FRAMES], num_looks).astype(np.float32)
    sums = weights[:, None] * (means + rng.normal(0, 0.1, (num_looks, dim)))
    kind = rng.choice(3, num_looks, p=[0.9, 0.05, 0.05])
    sums[kind == 1], sums[kind == 2] = 0, np.nan
    boxes = np.tile(np.array([0, 0, 40, 80], np.float32), (length, 1))
    return Track(
        rng.integers(0, 200) / 16 + np.arange(length) / 16,
        boxes,
        np.ones(length, np.float32),
        np.zeros((length, 0), np.float32),
        np.zeros(dim, np.float32),
        sums.astype(np.float32),
        look_weights=weights,
    )


@pytest.fixture(params=[1, 1 << 11, 1 << 30], ids=["track by track", "a few tracks at a time", "all tracks at once"])
def tracks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Track]:
    monkeypatch.setattr(looks, "BATCH_FLOATS", request.param)
    rng = np.random.default_rng(0)
    return [make_track(rng, num, changes) for num in [0, 1, 2, 3, 4, 5, 9, 17, 40] for changes in (0, 1, 3, 3)]


def known(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Sums and weights of a track's looks, 0 and 0 where they aren't known."""
    sums = track.looks.astype(np.float64)
    is_known = np.isfinite(sums).all(axis=1) & sums.any(axis=1)
    sums[~is_known] = 0
    return sums, track.look_weights * is_known


def evidence_across(sums: np.ndarray, weights: np.ndarray, before: int, after: int) -> float:
    sides = slice(max(before - CHANGE_WINDOW, 0), before), slice(after, after + CHANGE_WINDOW)
    if not all(weights[side].sum() for side in sides):
        return np.inf
    a, b = (sums[side].sum(axis=0) / weights[side].sum() for side in sides)
    num_a, num_b = (weights[side].sum() / LOOK_FRAMES for side in sides)
    return float(MODEL.evidence(((a - b) ** 2).sum(), num_a, num_b))


def changes_in(sums: np.ndarray, weights: np.ndarray) -> list[int]:
    """The clearest change, and those in what lies before and after it."""
    if len(sums) < 4:
        return []
    evidence = [evidence_across(sums, weights, k, k + 1) for k in range(1, len(sums) - 1)]
    k = 1 + int(np.argmin(evidence))
    if evidence[k - 1] > -MIN_EVIDENCE:
        return []
    after = changes_in(sums[k + 1 :], weights[k + 1 :])
    return [*changes_in(sums[:k], weights[:k]), k, *(k + 1 + n for n in after)]


def test_a_track_changes_where_it_does_on_its_own(tracks: list[Track]) -> None:
    found = [(start + n, k) for start, own in looks.laid_out(tracks) for n, k in own.changes(MODEL, MIN_EVIDENCE)]
    wanted = [(n, k) for n, track in enumerate(tracks) for k in changes_in(*known(track))]
    assert sorted(found) == wanted
    assert len(wanted) > 10 and len({n for n, _ in wanted}) < len(wanted)


def test_evidence_across_two_places_is_that_of_the_track_on_its_own(tracks: list[Track]) -> None:
    for start, own in looks.laid_out(tracks):
        for n, first in enumerate(own.first):
            track = tracks[start + n]
            before, after = np.triu_indices(len(track.looks) + 1)
            wanted = [evidence_across(*known(track), i, j) for i, j in zip(before, after, strict=True)]
            np.testing.assert_allclose(own.across(first + before, first + after, MODEL), wanted, rtol=1e-4, atol=1e-4)


def test_totals_leave_out_what_is_not_known(tracks: list[Track]) -> None:
    sums, nums = looks.totals(tracks)
    for track, total, num in zip(tracks, sums, nums, strict=True):
        own, weights = known(track)
        np.testing.assert_allclose(total, own.sum(axis=0) / LOOK_FRAMES, atol=1e-5)
        assert num == pytest.approx(weights.sum() / LOOK_FRAMES)


def plain_model(tracks: list[Track]) -> LookModel:
    """Track by track and pair by pair."""
    told, offsets, apart = [], [], []
    for track in tracks:
        sums, weights = known(track)
        plain = weights >= LOOK_FRAMES / 4
        if plain.sum() >= 3:
            own = sums[plain] / weights[plain, None]
            told.append((track, len(own), own.mean(axis=0), np.var(own, axis=0, ddof=1).sum()))
            offsets.append(own - own.mean(axis=0))
            half = len(own) // 2
            if half >= 3:
                fleeting = 1 / half + 1 / (len(own) - half)
                apart.append((((own[:half].mean(axis=0) - own[half:].mean(axis=0)) ** 2).sum(), fleeting))
    within = np.median([variance for *_, variance in told])
    lasting = np.median([(distance2 / within - fleeting) / (2 - fleeting) for distance2, fleeting in apart])
    lasting = float(np.clip(lasting, looks.LASTING, looks.MAX_LASTING))
    beyond2 = [
        ((mean - mean_b) ** 2).sum() - within * (2 * lasting + max(1 - lasting, 0) * (1 / num + 1 / num_b))
        for (a, num, mean, _), (b, num_b, mean_b, _) in combinations(told, 2)
        if a.times_s[0] < b.times_s[-1] and b.times_s[0] < a.times_s[-1]
    ]
    products = np.concatenate(offsets).T @ np.concatenate(offsets)
    num_dims = np.trace(products) ** 2 / (products**2).sum()
    return LookModel(within, np.quantile(beyond2, 0.75) / 2, num_dims, lasting)


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_the_model_is_that_of_all_tracks_and_pairs(
    tracks: list[Track], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_PAIRS", block)
    model = looks.fit(Scatter.of(tracks))
    assert model is not None and model.between > 0
    np.testing.assert_allclose(astuple(model), astuple(plain_model(tracks)), rtol=1e-4)


def of_class(track: Track, label: int, offset: float = 0.0) -> Track:
    """The track as one of the third class for some frames, and of its own in most; it looks different by `offset`."""
    logits = np.eye(3, dtype=np.float32)[np.where(np.arange(len(track)) % 4 == 1, 2, label)]
    is_known = track.looks.any(axis=1)
    return replace(track, logits=logits, looks=track.looks + offset * (track.look_weights * is_known)[:, None])


@pytest.mark.parametrize("offset", [0.0, 5.0], ids=["two classes that look alike", "two that don't"])
def test_objects_of_one_class_tell_how_different_objects_look(tracks: list[Track], offset: float) -> None:
    cars = [of_class(track, 1, offset) for track in tracks]
    both = looks.fit(Scatter.of([of_class(track, 0) for track in tracks] + cars))
    one = looks.fit(Scatter.of(tracks))
    assert both is not None and one is not None
    np.testing.assert_allclose(astuple(both), astuple(one), rtol=0.02)


def test_where_no_two_are_of_one_class_all_tell(tracks: list[Track]) -> None:
    longest = sorted(tracks, key=len)[-2:]
    model = looks.fit(Scatter.of([of_class(track, n) for n, track in enumerate(longest)]))
    assert model == looks.fit(Scatter.of(longest))


def test_what_parts_tell_is_as_if_the_whole_had_never_been_known(tracks: list[Track]) -> None:
    parts: list[Track] = []
    track_of: list[int] = []
    for n, track in enumerate(tracks):
        at = [0, 3, 11, len(track.looks)] if n % 4 == 2 and len(track.looks) > 11 else [0, len(track.looks)]
        parts += [
            replace(track, looks=track.looks[start:stop], look_weights=track.look_weights[start:stop])
            for start, stop in pairwise(at)
        ]
        track_of += [n] * (len(at) - 1)
    is_cut = np.bincount(track_of) > 1
    cut_up = Scatter.of([part for part, n in zip(parts, track_of, strict=True) if is_cut[n]])
    scatter = Scatter.of(tracks).after_cuts(is_cut, list(compress(tracks, is_cut)), cut_up)
    after = looks.fit(scatter)
    assert is_cut.sum() == 2 and after is not None
    np.testing.assert_allclose(astuple(after), astuple(looks.fit(Scatter.of(parts))), rtol=1e-4)


@pytest.mark.parametrize("lasting", [1.0, 2.0])
def test_where_all_of_the_scatter_lasts_more_looks_say_no_more(lasting: float) -> None:
    evidence = replace(MODEL, lasting=lasting).evidence(np.full(3, 0.4), np.array([1.0, 10, 1000]), np.full(3, 5.0))
    np.testing.assert_allclose(evidence, evidence[0])


def test_looks_that_are_all_alike_are_spread_over_one_dimension() -> None:
    rng = np.random.default_rng(1)
    tracks = [
        replace(make_track(rng, 4), looks=np.tile(look, (4, 1)), look_weights=np.full(4, LOOK_FRAMES, np.float32))
        for look in rng.normal(0, LOOK_FRAMES, (3, 24)).astype(np.float32)
    ]
    model = looks.fit(Scatter.of([replace(track, times_s=np.arange(len(track)) / 16) for track in tracks]))
    assert model is not None
    assert (model.within, model.num_dims) == (looks.MIN_WITHIN, 1)


def test_no_more_looks_are_laid_out_at_a_time_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "BATCH_FLOATS", 24 * 100)
    rng = np.random.default_rng(2)
    tracks = [make_track(rng, 9) for _ in range(50)]
    batches = [own for _, own in looks.laid_out(tracks)]
    assert sum(len(own.counts) for own in batches) == 50
    assert all(own.sums.size <= 24 * (100 + 9 + 2 * CHANGE_WINDOW) for own in batches)
    assert list(looks.laid_out([])) == []

"""A second look at the tracks of a whole shot, when it is over: what the online pass could not know.

    for track in refine(tracks, RefineConfig(), frame_times_s=times_s):
        ...

1. A track that lies on another one nearly all the time is a duplicate, and goes.
2. Where a track's look changes for good, it has slipped to another object, and is cut there. So is a track where going
   through its detections backward in time contradicts it, unless its looks say that it is one object. What looks tell
   is then found out anew.
3. Tracks that are one object are joined: by motion, size, look, class, the time between them and what either direction
   of time made of them (see `joining.py`).
4. What was seen for a few frames only, or doubted nearly all the time, goes.
5. Detections that no track took, before a track begins and in its gaps, are given to it (see `strays.py`).
6. Short gaps are filled, and boxes smoothed, as much as the clip's boxes jitter (see `whole.py`).

What the sway of a camera adds to all boxes is taken off before 2 and put back at the end (see `sway.py`).

The clip that the tracks come from is taken to be one shot: the stages track one shot at a time, so nothing is ever
joined across a cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from trackverse import boxes, cutting, joining, looks, pairs
from trackverse.joining import JoinConfig, Pieces
from trackverse.looks import LookModel, Scatter
from trackverse.rows import Rows
from trackverse.strays import Seen, Strays
from trackverse.sway import Sway
from trackverse.ticks import usual_step_s
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track
from trackverse.vectors import unit
from trackverse.whole import whole_tracks

# What was seen for less than this is a slip of the detector: five frames at most, and two where frames come rarely, as
# for ByteTrack, which confirms in a second one.
MIN_SEEN_S, MIN_SEEN, ENOUGH_SEEN = 0.5, 2, 5
SEEN_TOO_LITTLE = "tracks seen in under {} frames"
MAX_BLINK = 2  # frames that a detector misses now and then, however rarely they come


@dataclass(frozen=True)
class RefineConfig(JoinConfig):
    """Limits of the second pass, those of joining among them. Kept when `>=`.

    `min_cut_evidence`: a track is cut where the evidence against its being one object is this large.
    `max_blink_s`: gaps up to this long are filled, and those of `MAX_BLINK` frames; for so long, too, a track is sought
    that no stray goes on with. Longer ones, up to `max_fill_gap_s`, are filled where other objects would hide this one,
    by `min_hidden_share` of it in the mean: what isn't detected in full view is not where a line has it.
    `min_duplicate_iou`, `min_duplicate_share`: a duplicate overlaps that much in that share of its frames. From 0.55
    on it does equally well, but two objects may overlap so much too; 0.8 leaves second boxes of one.
    `min_sure_share`: of the detections of a track, this many are confident; a lamp post that a detector takes for a
    person is doubted nearly all the time, an occluded person a half of it.
    """

    min_cut_evidence: float = 6.0
    max_blink_s: float = 0.3
    max_fill_gap_s: float = 1.0
    min_hidden_share: float = 0.7
    min_duplicate_iou: float = 0.7
    min_duplicate_share: float = 0.8
    min_sure_share: float = 1 / 3


def refine(
    tracks: Sequence[Track],
    config: RefineConfig,
    *,
    frame_times_s: Float64 | None = None,
    sure_score: float = 0.0,
    frame_width: float = np.inf,
    sway: Sway | None = None,
    strays: Strays | None = None,
    dropped: Counter[str] | None = None,
) -> Iterator[Track]:
    """The tracks of a shot after a second look, by the time they start; one at a time, so that the class scores of only
    one need be in memory.

    `frame_times_s` (F,): of all frames that were looked at; without, of those in which anything was seen.
    `sure_score`: from this score on, a detection is confident. `frame_width`: px; who leaves at its sides and comes
    back after more than `max_blind_gap_s` is a new track. `sway`: the camera's in these frames; without, what the
    tracks tell of it. `strays`: the detections that no track took. `dropped` counts, by reason, the tracks that go.
    """
    dropped = Counter() if dropped is None else dropped
    tracks = _seen(tracks)
    if not tracks:
        return
    stray_s = [] if strays is None else [strays.times_s]
    seen_s = np.unique(np.concatenate([track.times_s for track in tracks] + stray_s))
    frame_times_s = seen_s if frame_times_s is None else np.union1d(frame_times_s, seen_s)
    is_duplicate = _is_duplicate(tracks, frame_times_s, config)
    dropped["tracks on top of another one"] += int(is_duplicate.sum())
    tracks = [tracks[n] for n in np.flatnonzero(~is_duplicate)]
    sway = Sway.of(tracks, frame_times_s) if sway is None else sway
    pieces, model = _pieces(sway.taken_off(tracks), config, sure_score, frame_width, sway)
    scores = np.concatenate([part.scores for part in pieces.tracks])
    chains = joining.find_chains(pieces, model, config)
    chains = _trusted(chains, pieces, scores >= sure_score, fewest_seen(frame_times_s), config.min_sure_share, dropped)
    if not chains:
        return
    max_blink_s = max(config.max_blink_s, (MAX_BLINK + 1) * usual_step_s(sway.times_s)) + ROUNDING_S
    whole = [[pieces.tracks[n] for n in chain] for chain in chains]
    seen = Seen.of(whole, sway.times_s)
    if strays is not None:
        seen = strays.joined_to(seen, whole, sway, max_unseen_s=max_blink_s, min_class_cosine=config.min_class_cosine)
    yield from whole_tracks(
        whole,
        _embeddings(pieces, chains),
        seen,
        None if strays is None else strays.class_scores,
        sway,
        max_blink_s=max_blink_s,
        max_fill_gap_s=config.max_fill_gap_s + ROUNDING_S,
        min_hidden_share=config.min_hidden_share,
    )


def _seen(tracks: Sequence[Track]) -> list[Track]:
    """The tracks without interpolated frames, as far as there are others."""
    seen = []
    for track in tracks:
        num_new = np.count_nonzero(track.interpolated)  # `any` and `all` take eight times as long
        if 0 < num_new < len(track):
            track = cutting.part(track, np.flatnonzero(~track.interpolated), slice(None))
        if num_new < len(track):
            seen.append(track)
    return seen


def _pieces(
    tracks: Sequence[Track], config: RefineConfig, sure_score: float, frame_width: float, sway: Sway
) -> tuple[Pieces, LookModel | None]:
    """The parts of tracks that are cut where they may have gone over to another object, and what looks tell of them."""
    scatter = Scatter.of(tracks)
    model = looks.fit(scatter)
    parts, track_of, links = cutting.cut(
        tracks,
        model,
        sure_score=sure_score,
        min_cut_evidence=config.min_cut_evidence,
        min_join_evidence=config.min_join_evidence,
    )
    if len(parts) > len(tracks):
        model = _purer(model, scatter, tracks, parts, track_of)
    return Pieces.of(parts, frame_width, sway, links), model


def _purer(
    model: LookModel | None, scatter: Scatter, tracks: Sequence[Track], parts: Sequence[Track], track_of: Int64
) -> LookModel | None:
    """What looks tell when the tracks, to whose `scatter` the `model` was fitted, were cut into `parts` (N,) of
    tracks `track_of` (N,): those that mixed two objects hid how much the looks of one are alike. But where fewer parts
    than tracks are long enough to tell, it is what looked alike all along.
    """
    is_cut = np.bincount(track_of) > 1
    after = Scatter.of(list(compress(parts, is_cut[track_of])))
    if model is not None and after.tells.sum() < scatter.tells[is_cut].sum():
        return model
    return looks.fit(scatter.after_cuts(is_cut, list(compress(tracks, is_cut)), after)) or model


def _trusted(
    chains: Sequence[list[int]],
    pieces: Pieces,
    is_sure: Bool,
    min_seen: int,
    min_sure_share: float,
    dropped: Counter[str],
) -> list[list[int]]:
    """The chains that were seen in enough frames, and confidently in enough of these. `is_sure` (T,): which detections
    of the pieces are confident. `dropped` counts the others.
    """
    num_seen = (pieces.stop - pieces.first).tolist()
    num_sure = np.add.reduceat(is_sure, pieces.first, dtype=np.int64).tolist()
    trusted = []
    for chain in chains:
        num = sum(num_seen[n] for n in chain)
        if num < min_seen:
            dropped[SEEN_TOO_LITTLE.format(min_seen)] += 1
        elif sum(num_sure[n] for n in chain) / num < min_sure_share:
            dropped["tracks doubted nearly all the time"] += 1
        else:
            trusted.append(chain)
    return trusted


def fewest_seen(frame_times_s: Float64) -> int:
    """In how many frames an object must be seen, in a shot with frames at these times (F,)."""
    return int(np.clip((MIN_SEEN_S + ROUNDING_S) / usual_step_s(frame_times_s), MIN_SEEN, ENOUGH_SEEN))


def _embeddings(pieces: Pieces, chains: Sequence[Sequence[int]]) -> Float32:
    """(N, D) of the chains of pieces. Only now, when it is known what belongs together: pieces have that of the track
    which they were cut out of. It is all there is of one so short that no look is wholly its own.
    """
    heads = [chain[0] for chain in chains]
    sums = pieces.look_sums[heads]
    if sums.shape[1]:
        for n in np.flatnonzero(pieces.look_nums[heads] == 0).tolist():
            sums[n] = np.sum([pieces.tracks[m].embedding for m in chains[n]], axis=0)
    return unit(sums)


# ---- duplicates


def _is_duplicate(tracks: Sequence[Track], frame_times_s: Float64, config: RefineConfig) -> Bool:
    """(N,): tracks that lie on a longer one. Three frames of each are looked at, then all of the few in question. The
    clip's frames are at `frame_times_s` (F,).
    """
    rows = Rows.of(tracks)
    edges, lengths, track_of = rows.xyxy.T.astype(np.float64), rows.lengths, rows.owner
    # By length and score: of two that are the same, the later one in this order stays.
    score = np.bincount(track_of, np.concatenate([track.scores for track in tracks])) / lengths
    rank = np.lexsort((score, lengths)).argsort()
    frame_of = np.searchsorted(frame_times_s, rows.times_s)
    samples = np.unique(rows.first[:, None] + lengths[:, None] * np.array([1, 2, 3]) // 4)
    found = []
    for row, beside in pairs.beside(frame_of, edges[0], edges[2], samples):
        longer = rank[track_of[beside]] > rank[track_of[row]]
        row, beside = row[longer], beside[longer]
        overlap = boxes.iou_of_pairs(edges.take(row, axis=1).T, edges.take(beside, axis=1).T)
        on = overlap >= config.min_duplicate_iou
        found.append(np.stack([track_of[row[on]], track_of[beside[on]]], axis=-1))
    on_longer = np.unique(np.concatenate(found), axis=0)

    dropped = np.zeros(len(tracks), bool)
    # The longest ones first, so that it is known which others stay.
    for shorter, other in on_longer[np.argsort(-rank[on_longer[:, 0]], kind="stable")]:
        a, b = tracks[shorter], tracks[other]
        _, i, j = np.intersect1d(a.times_s, b.times_s, assume_unique=True, return_indices=True)
        num_on = int((boxes.iou_of_pairs(a.xyxy[i], b.xyxy[j]) >= config.min_duplicate_iou).sum())
        dropped[shorter] |= not dropped[other] and num_on >= config.min_duplicate_share * len(a)
    return dropped

"""Associate detections that you have already: MOTChallenge text in, one MOTChallenge result file a sequence out.

    python -m trackverse.associate --detections data/MOT17 --output_dir results
    python -m trackverse.associate --detections data --output_dir results --embeddings feat.npz --refine

Reads   <sequence>/det.txt (or det/det.txt, as MOTChallenge has it) and <sequence>/seqinfo.ini; with --embeddings also
        that file of every sequence's folder: a matrix of an appearance a line of det.txt, zeros where none is known,
        .npy, or .npz (its first matrix, or the one named in FILE:NAME). Scores from 0 to 1; -1 in all lines: unknown.
Writes  <output_dir>/<sequence>.txt. A sequence is taken to be one shot.
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from trackverse import boxes, cli, files, mot, mot_embeddings, smoothing
from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.errors import SetupError
from trackverse.layout import lock_path
from trackverse.refine import SEEN_TOO_LITTLE, RefineConfig, fewest_seen, refine
from trackverse.strays import Strays
from trackverse.tracking import usable
from trackverse.types import ROUNDING_S, Detections, Float32, Float64, Int64, Track, look_frames
from trackverse.wording import counted

log = logging.getLogger("trackverse.associate")  # not __name__, which is __main__ as a command
# ByteTrack's own thresholds for detectors whose good scores begin at 0.6; appearance tells people apart for longer than
# motion does, so that it is remembered for longer.
BOXES_ALONE = ByteTrackConfig(track_thresh=0.6, max_lost_s=1.0)
WITH_APPEARANCE = ByteTrackConfig(
    track_thresh=0.6, max_lost_s=2.0, match_thresh=0.6, embedding_momentum=0.9, max_common_likeness=0.3
)
# From one detection to the next: a detector misses an object for some frames now and then, for one at any rate. Longer,
# it is mostly hidden, and the second pass has to say where: 0.3 s finds more of a street, and less of a dance.
MAX_BLINK_S = 0.2
# However rarely frames come: at three a second, a second is over when a detector has missed a walker three times. Three
# to six do equally well.
MIN_LOST_FRAMES = 4
MIN_SCORE = 0.1  # ByteTrack's: what is less sure than this is no detection at all
UNKNOWN_SCORE = -1  # in MOTChallenge's text
# Two boxes that overlap more than this are seldom of two objects, and ByteTrack's own detector leaves none. Where a
# tenth of the boxes do, many come twice: of detectors with suppression, and of drawn crowds, less than 0.5 % do.
DOUBLE_IOU, MANY_DOUBLES, SOME_FRAMES = 0.7, 0.1, 20
# 0.7 leaves second boxes that are off by a tenth, and with 0.5, people who stand before others are lost.
ADVISED_NMS = 0.6
MAX_A_FRAME = 5000  # detections; more are another column taken for the frame's number, and take all memory in pairs


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.associate")
    add = parser.add_argument
    add("--detections", type=cli.folder, required=True, metavar="DIR", help="folder of sequences, or of one")
    add("--output_dir", type=cli.folder, required=True, metavar="DIR", help="where the result files go")
    add("--embeddings", type=named_file, metavar="FILE[:NAME]", help="file of appearances in every sequence's folder")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--refine", action="store_true", help="look at the whole sequence again: join, fill and smooth tracks")
    either(
        "--raw_boxes",
        action="store_true",
        help="without --refine: boxes as they were detected, none smoothed or filled in",
    )
    add("--conf", type=cli.fraction, default=MIN_SCORE, metavar="X", help="least score of a detection")
    text = "from this score on, a detection is confident"
    add("--track_thresh", type=cli.fraction, default=BOXES_ALONE.track_thresh, metavar="X", help=text)
    text = (
        "of detections that overlap more than this (IoU), only the surest stays; for detectors without non-maximum "
        "suppression (default: all stay)"
    )
    add("--nms", type=cli.fraction, metavar="X", help=text)
    text = (
        "seconds that a track is looked for after it was last seen (default: 1, with appearances 2; at least 4 frames)"
    )
    add("--max_lost_s", type=cli.not_negative, metavar="X", help=text)
    return parser


def named_file(text: str) -> str:
    """FILE or FILE:NAME."""
    if not text.partition(":")[0]:
        raise ArgumentTypeError("names no file (is a shell variable unset?)")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)
    return cli.run(lambda: run(args), goes_on=False)


def run(args: Namespace) -> int:
    """All sequences, one after the other. Raises SetupError at the first whose files are not as they must be."""
    sequences = mot.sequences(args.detections, "det")
    if args.embeddings:
        mot_embeddings.check([sequence.folder for sequence in sequences], args.embeddings)
    for sequence in sequences:
        path = args.output_dir / f"{sequence.name}.txt"
        if path in (mot.text_path(sequence.folder, name) for name in ("det", "gt")):
            raise SetupError(f"{path}: is no result, and would be replaced by one; give another --output_dir")
        refused = Counter[str]()
        tracks = associate(sequence, args, refused)
        with files.claim(lock_path(path), wait=True):
            write_tracks(path, tracks, sequence.fps)
        left_out = "".join(f", {counted(number, reason)}" for reason, number in sorted(refused.items()) if number)
        log.info("%s: %s%s", sequence.name, counted(len(tracks), "tracks"), left_out)
    return 0


def associate(sequence: mot.Sequence, args: Namespace, refused: Counter[str]) -> list[Track]:
    """The tracks of a sequence; detections that can't be used, and tracks that aren't kept, are counted in
    `refused` by reason.
    """
    rows = _read_detections(mot.text_path(sequence.folder, "det"))
    embeddings = mot_embeddings.read(sequence.folder, args.embeddings, len(rows))
    config = _config(args, WITH_APPEARANCE if embeddings.shape[1] else BOXES_ALONE, sequence.fps)
    kept = _kept(rows, sequence.num_frames, args.conf, refused)
    highest, least = np.nanmax(rows[kept, 6], initial=0.0), config.track_thresh + config.new_track_margin
    if len(kept) and highest < least:
        message = "%s: no track starts, as the highest score is %.3g and %g is needed; give a lower --track_thresh"
        log.warning(message, sequence.folder, highest, least)
    first_of_frame = np.searchsorted(rows[kept, 0], np.arange(1, sequence.num_frames + 2))
    if args.nms is None and _come_twice(rows[kept], first_of_frame):
        message = "%s: many detections lie on surer ones; are they of one object? --nms %g drops them"
        log.warning(message, sequence.folder, ADVISED_NMS)

    def of_frame(start: int, stop: int) -> Detections:
        mine = kept[start:stop]
        found = usable(_detections(rows[mine], embeddings[mine]), None, refused)
        return found if args.nms is None else _without_doubles(found, args.nms, refused)

    found = (of_frame(start, stop) for start, stop in pairwise(first_of_frame.tolist()))
    tracks = tracks_of(sequence, found, config, refused, second_pass=args.refine)
    return tracks if args.refine or args.raw_boxes else _smooth(tracks, sequence)


def tracks_of(
    sequence: mot.Sequence,
    found: Iterable[Detections],
    config: ByteTrackConfig,
    refused: Counter[str],
    *,
    second_pass: bool,
) -> list[Track]:
    """The tracks of what is `found` in all frames of a sequence, in turn; those that aren't kept are counted in
    `refused` by reason.
    """
    times_s = _times_s(sequence)
    with TemporaryFile() as class_scores:
        strays = Strays(class_scores) if second_pass else None
        tracker = ByteTracker(config, look_frames=look_frames(sequence.fps), strays=strays)
        tracks = list[Track]()
        for time_s, detections in zip(times_s.tolist(), found, strict=True):
            tracks += tracker.update(time_s, detections)
        tracks += tracker.finish()
        if second_pass:
            refined = refine(
                tracks,
                RefineConfig(),
                frame_times_s=times_s,
                sure_score=config.track_thresh,
                frame_width=sequence.width,
                strays=strays,
                dropped=refused,
            )
            return list(refined)
    min_seen = fewest_seen(times_s)
    long = [track for track in tracks if len(track) >= min_seen]
    refused[SEEN_TOO_LITTLE.format(min_seen)] += len(tracks) - len(long)
    return long


def _times_s(sequence: mot.Sequence) -> Float64:
    """(F,): of its frames."""
    return np.arange(sequence.num_frames) / sequence.fps


def _config(args: Namespace, usual: ByteTrackConfig, fps: float) -> ByteTrackConfig:
    """The `usual` thresholds with those of the command line in their place."""
    longest_s = max(usual.max_lost_s, MIN_LOST_FRAMES / fps) if args.max_lost_s is None else args.max_lost_s
    return replace(usual, track_thresh=args.track_thresh, max_lost_s=longest_s)


def _kept(rows: Float64, num_frames: int, min_score: float, refused: Counter[str]) -> Int64:
    """Numbers (K,) of the lines of det.txt (N, 7) to be tracked, by frame; the others are counted in `refused`."""
    frame, is_first = rows[:, 0], np.zeros(len(rows), bool)
    is_first[np.unique(np.delete(rows, 1, axis=1), axis=0, return_index=True)[1]] = True  # nobody has an id yet
    in_sequence = (frame >= 1) & (frame <= num_frames) & (frame % 1 == 0)
    # Not a number is not below the threshold: it is counted with what isn't finite.
    is_low = in_sequence & (rows[:, 6] < min_score)
    is_good = in_sequence & ~is_low
    refused["detections outside the sequence's frames"] += int((~in_sequence).sum())
    refused[f"detections of a score below {min_score:g}"] += int(is_low.sum())
    refused["detections listed twice"] += int((is_good & ~is_first).sum())
    kept = np.flatnonzero(is_good & is_first)
    return kept[np.argsort(frame[kept], kind="stable")]


def _without_doubles(detections: Detections, max_iou: float, refused: Counter[str]) -> Detections:
    """The detections that are left of a frame by non-maximum suppression; the others are counted in `refused`."""
    kept = np.sort(boxes.nms(detections.xyxy, detections.scores, max_iou))
    refused["detections on top of surer ones"] += len(detections) - len(kept)
    return detections.select(kept)


def _come_twice(rows: Float64, first_of_frame: Int64) -> bool:
    """Whether `MANY_DOUBLES` of the detections of some frames would go by non-maximum suppression. The lines of det.txt
    (N, 7) of frame n begin at `first_of_frame[n]`.
    """
    num, gone = 0, Counter[str]()
    for number in np.unique(np.linspace(0, len(first_of_frame) - 2, SOME_FRAMES).astype(np.int64)).tolist():
        of_frame = rows[first_of_frame[number] : first_of_frame[number + 1]]
        detections = usable(_detections(of_frame, np.zeros((len(of_frame), 0), np.float32)), None, Counter())
        _without_doubles(detections, DOUBLE_IOU, gone)
        num += len(detections)
    return num > 0 and gone.total() >= MANY_DOUBLES * num


def _smooth(tracks: Sequence[Track], sequence: mot.Sequence) -> list[Track]:
    """The tracks with smoothed boxes, and with boxes in gaps that a detector leaves now and then."""
    times_s, max_blink_s = _times_s(sequence), max(MAX_BLINK_S, 2 / sequence.fps) + ROUNDING_S
    return smoothing.smooth_tracks([_without_blinks(track, times_s, max_blink_s) for track in tracks])


def _without_blinks(track: Track, frame_times_s: Float64, max_blink_s: float) -> Track:
    """The track with boxes in the frames that the detector missed in between; their scores are 0."""
    frame_of, track_of = np.searchsorted(frame_times_s, track.times_s), np.zeros(len(track), np.int64)
    filled = smoothing.fill(frame_times_s, frame_of, track.xyxy.astype(np.float64), track_of, max_blink_s)
    frame_of, xyxy, _, new = filled
    scores, logits = (smoothing.scores_of(detected, new) for detected in (track.scores, track.logits))
    return replace(
        track,
        times_s=frame_times_s[frame_of],
        xyxy=xyxy.astype(np.float32),
        scores=scores,
        logits=logits,
        interpolated=new,
    )


def _read_detections(path: Path) -> Float64:
    """Lines of det.txt (N, 7). Raises SetupError if they can't be what they should be."""
    rows = mot.read_boxes(path)
    frames, counts = np.unique(rows[:, 0], return_counts=True)
    for frame in frames[counts > MAX_A_FRAME]:
        raise SetupError(f"{path}: over {MAX_A_FRAME} detections in frame {frame:g}")
    if (frames == 0).any():
        log.warning("%s: has a frame 0; they are counted from 1, so that all may be one too low", path)
    if len(rows) and (rows[:, 6] == UNKNOWN_SCORE).all():
        log.warning("%s: no detection has a score; all are taken for confident ones", path)
        rows[:, 6] = 1
    if (rows[:, 6] > 1).any():
        log.warning("%s: scores of up to %g, and thresholds are for scores from 0 to 1", path, np.nanmax(rows[:, 6]))
    return rows


def _detections(rows: Float64, embeddings: Float32) -> Detections:
    """Lines of det.txt (N, 7) of one frame; of one class, for which the score stands."""
    xyxy = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)
    with np.errstate(over="ignore"):  # it becomes inf, and is refused
        scores = rows[:, 6].astype(np.float32)
        return Detections(xyxy.astype(np.float32), scores, scores[:, None], embeddings)


def write_tracks(path: Path, tracks: Sequence[Track], fps: float) -> None:
    """MOTChallenge results; ids from 1 in the order in which tracks begin. Boxes that no detection stands behind have
    the score 0.
    """
    rows = []
    for track_id, track in enumerate(sorted(tracks, key=lambda track: float(track.times_s[0])), start=1):
        for time_s, (left, top, right, bottom), score in zip(track.times_s, track.xyxy, track.scores, strict=True):
            box = f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},{score:.4f},-1,-1,-1"
            rows.append((round(time_s * fps) + 1, track_id, box))
    mot.write_boxes(path, rows)


if __name__ == "__main__":
    sys.exit(main())

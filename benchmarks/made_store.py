"""What benchmarks/curate.py chooses from: generated track files, indices and embeddings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

TRACKS_A_VIDEO = 500
NUM_CLASSES = 1000
NUM_FRAMES = 170
DIM = 2048


def write_store(folder: Path, num_tracks: int) -> None:
    """Track files of the project's layout, each record a gzip member; the frames repeat from video to video."""
    from trackverse.member_heads import record_member

    rng = np.random.default_rng(0)
    times = np.round(np.arange(NUM_FRAMES) / 16, 4).tolist()
    bodies = []
    for _ in range(TRACKS_A_VIDEO):
        boxes = np.cumsum(rng.normal(size=(NUM_FRAMES, 4)), axis=0) + np.array([300, 200, 200, 250])
        scores, classes = rng.uniform(0.3, 1, (2, NUM_FRAMES))
        bodies.append(
            {
                "track_ts": [times[0], times[-1]],
                "frame_ts": times,
                "frame_bboxes": np.round(np.maximum(boxes, 1), 2).tolist(),
                "frame_obj": np.round(scores, 4).tolist(),
                "frame_lbl": rng.integers(0, 3, NUM_FRAMES).tolist(),
                "frame_desc": [("person", "dog", "car")[n] for n in rng.integers(0, 3, NUM_FRAMES)],
                "frame_cls": np.round(classes, 4).tolist(),
                "frame_wcls": np.round(scores * classes, 4).tolist(),
            }
        )
    labels = np.minimum(rng.zipf(1.3, num_tracks) - 1, NUM_CLASSES - 1)
    for first in range(0, num_tracks, TRACKS_A_VIDEO):
        video_id = f"{first // TRACKS_A_VIDEO:04x}video"
        path = folder / video_id[:2] / f"{video_id}-meta.jsonl.gzip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for number, body in enumerate(bodies[: num_tracks - first]):
                label = int(labels[first + number])
                means = np.sort(rng.uniform(size=10))[::-1].round(4).tolist()
                record = {
                    "yid": video_id,
                    "track_id": number,
                    "clip_id": f"{video_id}.0.mp4",
                    "video_size": [720, 1280],
                }
                record |= body | {
                    "top10_lbl": [label, *range(9)],
                    "top10_desc": [f"class {label}"] * 10,
                    "top10_cls": [means, [0.1] * 10],
                    "top10_wcls": [means, [0.1] * 10],
                    "mp4_filename": f"{video_id[:2]}/{video_id}-{number}.mp4",
                    "schema": "trackverse/1",
                }
                file.write(record_member(json.dumps(record, separators=(",", ":")).encode()))


def take_off_heads(folder: Path) -> None:
    """The same members without what parse_tracks.py puts in front of them for the index; and no index."""
    from trackverse.member_heads import FIELD_AT, FRAME

    for path in folder.glob("*/*-meta.jsonl.gzip"):
        data, at, bare = path.read_bytes(), 0, []
        while at < len(data):
            _, _, _, length, _, size = FRAME.unpack_from(data, at)
            bare += [b"\x1f\x8b\x08\0\0\0\0\0\0\xff", data[at + FIELD_AT + length : at + size]]
            at += size
        path.write_bytes(b"".join(bare))
    (folder / "index.parquet").unlink()


def write_index(folder: Path, num_rows: int, dim: int = 0) -> None:
    """An index of generated rows beside hollow track files, as large and as old as it says, and embeddings."""
    import pyarrow as pa

    from trackverse.index_entries import FileEntry
    from trackverse.index_refresh import IndexWriter, name_of, stamp_of
    from trackverse.index_rows import SCHEMA
    from trackverse.layout import TracksLayout

    rng = np.random.default_rng(0)
    layout = TracksLayout(folder)
    with open(layout.index_path, "wb") as file, IndexWriter(file) as writer:
        writer.labels = {n: f"class {n}" for n in range(NUM_CLASSES)}
        for number in range(num_rows // TRACKS_A_VIDEO):
            video_id = f"{number:06x}video"
            path = layout.meta_path(video_id)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            os.truncate(path, TRACKS_A_VIDEO * 4000)  # a hole, which takes no room
            columns, boxes, starts = made_rows(rng, TRACKS_A_VIDEO)
            packed = pa.Array.from_buffers(
                pa.binary(), TRACKS_A_VIDEO, [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(boxes)]
            )
            rows = pa.table([*(pa.array(column) for column in columns.values()), packed], schema=SCHEMA)
            writer.keep(
                FileEntry(name_of(path), stamp_of(path), [[video_id, TRACKS_A_VIDEO]], number, True, {}, []), rows
            )
            if dim:
                looks = rng.normal(size=(TRACKS_A_VIDEO, dim)).astype(np.float32)
                looks /= np.linalg.norm(looks, axis=1, keepdims=True)
                np.save(layout.embeddings_path(video_id), looks.astype(np.float16))


def made_rows(rng: np.random.Generator, number: int) -> tuple[dict[str, np.ndarray], bytes, np.ndarray]:
    """The index's columns of a video of so many tracks, some 15 at a time, and their boxes, which drift."""
    from trackverse.columns import DTYPES
    from trackverse.ticks import TICK_S

    columns = {name: np.zeros(number, dtype) for name, dtype in DTYPES.items()}
    num_ticks = np.minimum(6 + rng.geometric(0.15, number), 60)
    first = rng.integers(0, number, number)
    columns["track_id"] = np.arange(number)
    columns["line"] = np.arange(number) + 1
    columns["label_id"] = np.minimum(rng.zipf(1.3, number) - 1, NUM_CLASSES - 1)
    columns["score"] = rng.uniform(size=number).round(4)
    columns["class_score"] = columns["score"].astype(np.float32)
    columns["start_s"] = (first - rng.uniform(0.1, 0.9, number)) * TICK_S
    columns["end_s"] = columns["start_s"] + num_ticks * TICK_S
    columns["num_frames"] = (num_ticks * 8).astype(np.int32)
    columns["box_motion"] = rng.gamma(1.0, 0.2, number).astype(np.float32)
    columns["first_tick"] = first.astype(np.int32)
    columns["offset"] = np.arange(number) * 4000 + rng.integers(0, 999, number)
    columns["num_bytes"] = rng.integers(3000, 5000, number).astype(np.int32)
    columns["crc"] = rng.integers(0, 1 << 32, number).astype(np.uint32)
    starts = np.concatenate([[0], np.cumsum(num_ticks)])
    size = np.exp(rng.normal(5, 0.5, (number, 2)))
    columns["area"] = (size.prod(axis=1) / (720 * 1280)).astype(np.float32)
    centre = rng.uniform((0, 0), (1280, 720), (number, 2))
    track = np.repeat(np.arange(number), num_ticks)
    way = (np.arange(starts[-1]) - starts[track])[:, None] * rng.normal(0, 8, (number, 2))[track]
    corners = np.concatenate([(centre - size / 2)[track] + way, (centre + size / 2)[track] + way], axis=1)
    boxes = np.rint(np.clip(corners, 0, [1280, 720, 1280, 720])).astype("<u2").tobytes()
    return {name: columns[name].astype(dtype) for name, dtype in DTYPES.items()}, boxes, starts * 8


def make_points(number: int) -> np.ndarray:
    """Features as of a network: bunches of lookalikes whose spread differs."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, DIM)).astype(np.float32) * 0.15
    owner = rng.integers(0, 200, number)
    points = centres[owner]
    points += (
        rng.normal(size=(number, DIM)).astype(np.float32) * rng.uniform(0.1, 0.3, (200, 1)).astype(np.float32)[owner]
    )
    return points


def write_points(path: Path, number: int) -> None:
    make_points(number).astype(np.float16).tofile(path)

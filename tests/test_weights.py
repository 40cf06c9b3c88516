"""The weights command and `find` as a user meets them: real processes, a real server, and what happens to folders."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from resume_server import ResumeServer, Served, serve

from trackverse import weights
from trackverse.errors import SetupError
from trackverse.known_weights import BY_NAME, WEIGHTS

REPO_DIR = Path(__file__).resolve().parent.parent


def archive(body: bytes) -> bytes:
    """A checkpoint, as far as can be told from outside."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("weights/data/0", body)
        return file.getvalue()


BODY = archive(bytes(range(256)) * 8000)  # 2 MB
DIGEST = hashlib.sha256(BODY).hexdigest()
R18 = BY_NAME["detic-r18"].filename  # no hash is published
HEAD = BY_NAME["aesthetic-head"].filename  # hash and size are published


@pytest.fixture
def server() -> Iterator[ResumeServer]:
    with serve() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder, which no one has made yet. Its name has a space."""
    path = tmp_path / "my weights"
    monkeypatch.setenv("TRACKVERSE_WEIGHTS", str(path))
    return path


def start(*argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trackverse.weights", *argv]
    return subprocess.Popen(command, cwd=REPO_DIR, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command(*argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    process = start(*argv)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_for_bytes(path: Path, num_bytes: int) -> None:
    deadline_s = time.monotonic() + 300
    while not (path.exists() and path.stat().st_size >= num_bytes):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_every_published_file_is_listed_with_its_address_and_licence(folder: Path) -> None:
    status, out, _ = command("list")
    assert status == 0
    assert not folder.exists()
    for entry in WEIGHTS:
        assert {entry.name, entry.url, entry.licence} <= {line.strip().split("  ")[0] for line in out.splitlines()}
    assert len(BY_NAME) == len({entry.filename for entry in WEIGHTS}) == len(WEIGHTS)


def test_a_first_copy_is_recorded_and_found_and_not_downloaded_again(server: ResumeServer, folder: Path) -> None:
    server.files[R18] = Served(BODY)
    status, _, err = command("get", "--mirror", server.url + "/", "detic-r18")
    assert status == 0
    assert "its publisher names no sha256; recorded that of this copy: " + DIGEST in err
    assert (folder / R18).read_bytes() == BODY
    check = subprocess.run(["sha256sum", "-c", f"{R18}.sha256"], cwd=folder, capture_output=True, text=True)
    assert check.stdout == f"{R18}: OK\n"
    assert weights.find("detic-r18") == folder / R18
    assert weights.find_with_sha256("detic-r18") == (folder / R18, DIGEST)
    assert command("get", "detic-r18", "--mirror", server.url)[0] == 0
    assert server.requests[R18] == 1
    assert {path.name for path in folder.iterdir()} == {R18, f"{R18}.sha256"}


def test_a_name_with_a_plus_is_asked_for_as_the_address_spells_it(server: ResumeServer, folder: Path) -> None:
    entry = BY_NAME["coco-classifier"]
    server.files[entry.filename] = Served(classifier())
    assert command("get", "coco-classifier", "--mirror", server.url)[0] == 0
    assert server.asked == [f"GET /{entry.url.rpartition('/')[2]} HTTP/1.1"]


def classifier() -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.ones((80, 512), np.float32))
        return file.getvalue()


PAGE = b"<!DOCTYPE html><title>Please log in</title>"
NOT_WHOLE = {
    "a page in place of a checkpoint": ("detic-r18", Served(PAGE), "no whole checkpoint"),
    "nothing": ("detic-r18", Served(b""), "no whole checkpoint"),
    "a checkpoint cut off by a server that says it is no longer": (
        "detic-r18",
        Served(BODY, claimed_size=1_000_000),
        "no whole checkpoint",
    ),
    "a page in place of an array": ("coco-classifier", Served(PAGE), "no whole matrix in a .npy file"),
    "an array cut off": ("coco-classifier", Served(classifier()[:-1]), "no whole matrix in a .npy file"),
}


@pytest.mark.parametrize("name, served, words", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_without_a_published_hash_the_file_must_be_a_whole_one_of_its_kind(
    name: str, served: Served, words: str, server: ResumeServer, folder: Path
) -> None:
    filename = BY_NAME[name].filename
    server.files[filename] = served
    status, _, err = command("get", name, "--mirror", server.url)
    assert status == 1 and f"error: {name}: {server.url}" in err and f"removed, because it is {words}" in err
    assert list(folder.iterdir()) == []
    path = copied(folder, name, served.body[: served.claimed_size])  # nor is it one that was put there by hand
    with pytest.raises(SetupError, match=words):
        weights.find(name)
    status, out, _ = command("check")
    assert status == 1 and words in out and f"remove it, then: python -m trackverse.weights get {name}" in out
    assert list(folder.iterdir()) == [path]


def test_a_checkpoint_of_the_old_format_is_one(folder: Path) -> None:
    path = copied(folder, "detic-r18", b"\x80\x02" + BODY)
    assert weights.find("detic-r18") == path


def test_one_that_fails_does_not_stop_the_others(server: ResumeServer, folder: Path) -> None:
    server.files[R18] = Served(BODY)
    server.files[HEAD] = Served(b"x" * 4071)
    status, _, err = command("get", "aesthetic-head", "clip-vit-b32", "detic-r18", "--mirror", server.url)
    assert status == 1
    assert "error: aesthetic-head: " in err and "removed, because its sha256 is" in err
    assert "error: clip-vit-b32: " in err and "HTTP 404" in err
    assert {path.name for path in folder.iterdir()} == {R18, f"{R18}.sha256"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["get"], "get which?"),
        (["get", "detic-swinbb"], "no weights are called detic-swinbb: detic-swinb, "),
        (["get", "detic-r18", "--mirror", "ftp://files.example"], "not a http:// or https:// address"),
        (["fetch"], "invalid choice: 'fetch'"),
    ],
)
def test_wrong_usage_is_status_2(argv: list[str], words: str, folder: Path) -> None:
    status, _, err = command(*argv)
    assert status == 2
    assert words in err.splitlines()[-1]


def test_a_folder_that_is_a_file_is_status_2(folder: Path) -> None:
    folder.write_text("not a folder")
    status, _, err = command("get", "detic-r18", "--mirror", "http://127.0.0.1:9")
    assert status == 2
    assert f"error: {folder}: can't keep weights there: " in err


def test_killed_midway_the_same_command_goes_on(server: ResumeServer, folder: Path) -> None:
    server.files[R18] = Served(BODY, stall_after=1_000_000)
    process = start("get", "detic-r18", "--mirror", server.url)
    wait_for_bytes(folder / f".{R18}.part", 900_000)
    process.kill()
    process.communicate()
    there = (folder / f".{R18}.part").stat().st_size
    assert not (folder / R18).exists()
    server.files[R18] = Served(BODY)
    assert command("get", "detic-r18", "--mirror", server.url)[0] == 0
    assert (folder / R18).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={there}-"]
    assert {path.name for path in folder.iterdir()} == {R18, f"{R18}.sha256"}


def test_two_at_once_download_it_once(server: ResumeServer, folder: Path) -> None:
    go_on = threading.Event()
    server.files[R18] = Served(BODY, go_on=go_on)
    first = start("get", "detic-r18", "--mirror", server.url)
    wait_for_bytes(folder / f".{R18}.part", 1)
    second = start("get", "detic-r18", "--mirror", server.url)
    assert second.stderr is not None
    assert any("another process is downloading it, waiting" in line for line in second.stderr)
    go_on.set()
    outcomes = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "already there" in outcomes[1]
    assert server.requests[R18] == 1
    assert (folder / R18).read_bytes() == BODY


def test_what_is_missing_says_how_to_get_it(folder: Path) -> None:
    with pytest.raises(SetupError, match=r"Detic_.*R18.* is missing: python -m trackverse.weights get detic-r18$"):
        weights.find("detic-r18")
    status, out, _ = command("check", "detic-r18")
    assert status == 1 and "get detic-r18" in out
    assert command("check")[:2] == (0, f"no weights in {folder}\n")


def copied(folder: Path, name: str, body: bytes) -> Path:
    """A file put there by hand, without a record."""
    folder.mkdir(exist_ok=True)
    path = folder / BY_NAME[name].filename
    path.write_bytes(body)
    return path


def test_a_copy_made_by_hand_is_recorded_when_it_is_first_used(folder: Path) -> None:
    path = copied(folder, "detic-r18", BODY)
    assert weights.find("detic-r18") == path
    assert (folder / f"{R18}.sha256").read_text() == f"{DIGEST}  {R18}\n"
    assert command("check") == (0, f"detic-r18: sound, sha256 {DIGEST} (first seen here)\n", "")


def test_a_recorded_file_is_not_read_through_again(folder: Path) -> None:
    """Bytes changed behind the clock's back pass `find`, which is quick, and not `check`, which is thorough."""
    path = copied(folder, "detic-r18", BODY)
    weights.find("detic-r18")
    before = path.stat()
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.find("detic-r18") == path
    status, out, _ = command("check", "detic-r18")
    assert status == 1 and "changed since" in out


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("aesthetic-head", b"x" * 4071, "its sha256 is .* instead of 2cd4e60f"),
        ("aesthetic-head", b"x" * 4070, "4070 bytes instead of 4071"),
        ("clip-vit-b32", BODY, "its sha256 is .* instead of 40d36571"),
    ],
    ids=["other bytes", "other size", "a wrong file of another project"],
)
def test_a_copy_that_is_not_the_published_file_is_refused(name: str, body: bytes, words: str, folder: Path) -> None:
    copied(folder, name, body)
    with pytest.raises(SetupError, match=words) as caught:
        weights.find(name)
    assert f"python -m trackverse.weights get {name}" in str(caught.value)


def test_a_file_cut_short_later_is_noticed(folder: Path) -> None:
    path = copied(folder, "detic-r18", BODY)
    weights.find("detic-r18")
    time.sleep(0.02)
    path.write_bytes(BODY[:1000])
    with pytest.raises(SetupError, match=f"changed since {R18}.sha256 was written"):
        weights.find("detic-r18")


def test_get_replaces_a_damaged_file_with_the_one_first_seen_and_no_other(server: ResumeServer, folder: Path) -> None:
    copied(folder, "detic-r18", b"damaged")
    (folder / f"{R18}.sha256").write_text(f"{DIGEST}  {R18}\n")
    os.utime(folder / f"{R18}.sha256", (0, 0))
    server.files[R18] = Served(BODY[::-1])
    status, _, err = command("get", "detic-r18", "--mirror", server.url)
    assert status == 1 and f"instead of {DIGEST}" in err
    server.files[R18] = Served(BODY)
    assert command("get", "detic-r18", "--mirror", server.url)[0] == 0
    assert weights.find("detic-r18").read_bytes() == BODY


def test_a_shared_folder_that_can_only_be_read_is_enough(folder: Path) -> None:
    copied(folder, "detic-r18", BODY)
    code = (
        "import os; os.access = lambda *args: False  # root may write everywhere: say what another user would hear\n"
        "from trackverse import weights; print(weights.find('detic-r18'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, capture_output=True, text=True, check=True)
    assert result.stdout == f"{folder / R18}\n"
    assert {path.name for path in folder.iterdir()} == {R18}

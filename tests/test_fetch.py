"""Downloads from a real server on this host that behaves as badly as the web does."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from resume_server import ResumeServer, Served, serve

from trackverse.errors import ItemError, SetupError
from trackverse.fetch import FetchConfig, fetch

REPO_DIR = Path(__file__).resolve().parent.parent
BODY = bytes(range(256)) * 4000  # 1 MB: more than the buffers of a connection
OTHER = BODY[::-1]
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = FetchConfig(tries=3, pause_s=0.01)
IMPATIENT = FetchConfig(timeout_s=3, tries=3, pause_s=0.01)  # for less, a busy machine may well fall silent
CUT = 300_000


@pytest.fixture
def server() -> Iterator[ResumeServer]:
    with serve() as running:
        yield running


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("served", "ranges"),
    [
        pytest.param(Served(BODY), [None], id="as it should be"),
        pytest.param(
            Served(BODY, cut_after=CUT, cut_times=2),
            [None, "bytes=300000-", "bytes=600000-"],
            id="broken off twice, goes on where it was",
        ),
        pytest.param(
            Served(BODY, cut_after=CUT, cut_times=1, ranges=False),
            [None, "bytes=300000-"],
            id="ignores Range: all of it once more",
        ),
        pytest.param(
            Served(BODY, cut_after=CUT, cut_times=1, validators=False),
            [None, None],
            id="can't vouch for the version and there is no hash: never joined",
        ),
        pytest.param(Served(BODY, statuses=[500, 503]), [None] * 3, id="two server errors that pass"),
        pytest.param(Served(BODY, chunked=True), [None], id="no length, but a marked end"),
        pytest.param(
            Served(BODY, chunked=True, cut_after=CUT, cut_times=1),
            [None, "bytes=262144-"],  # whole blocks of 64 kB are kept
            id="no length, the missing end mark is noticed",
        ),
        pytest.param(Served(b""), [None], id="an empty file"),
    ],
)
def test_the_file_arrives_whole(served: Served, ranges: list[str | None], server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = served
    seen: list[tuple[int, int | None]] = []
    digest = fetch(f"{server.url}/w.pth", tmp_path / "w.pth", config=QUICK, report=lambda *now: seen.append(now))
    assert (tmp_path / "w.pth").read_bytes() == served.body
    assert digest == hashlib.sha256(served.body).hexdigest()
    assert server.ranges == ranges
    assert left_in(tmp_path) == {"w.pth"}
    if served.body:
        assert seen[-1] == (len(BODY), None if served.chunked and len(ranges) == 1 else len(BODY))


@pytest.mark.parametrize(
    ("served", "reason", "num_requests", "kept"),
    [
        pytest.param(None, "HTTP 404", 1, False, id="not there: asked once"),
        pytest.param(Served(BODY, statuses=[403] * 9), "HTTP 403", 1, False, id="forbidden: asked once"),
        pytest.param(Served(BODY, statuses=[500] * 9), "no complete answer", 3, False, id="server errors that stay"),
        pytest.param(
            Served(BODY, stall_after=CUT, ranges=False), "no complete answer", 3, True, id="always falls silent"
        ),
        pytest.param(
            Served(BODY, claimed_size=2 * len(BODY), ranges=False), "no complete answer", 3, True, id="too short"
        ),
        pytest.param(Served(OTHER), "wrong hash", 1, False, id="another file"),
        pytest.param(Served(BODY, claimed_size=1000), "wrong hash", 1, False, id="says it is shorter than it is"),
        pytest.param(Served(BODY, claimed_size=-1, cut_after=CUT), "wrong hash", 1, False, id="torn, length unsaid"),
    ],
)
def test_what_does_not_come_is_one_line(
    served: Served | None, reason: str, num_requests: int, kept: bool, server: ResumeServer, tmp_path: Path
) -> None:
    if served is not None:
        server.files["w.pth"] = served
    with pytest.raises(ItemError) as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", sha256=SHA256, config=IMPATIENT)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value) and "w.pth" in str(caught.value)
    assert ("goes on from what is there" in str(caught.value)) == kept
    assert server.requests["w.pth"] == num_requests
    assert left_in(tmp_path) == ({".w.pth.part", ".w.pth.part.json"} if kept else set())


def test_a_size_that_is_not_the_published_one_is_refused_before_the_bytes(server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = Served(BODY, stall_after=0)
    with pytest.raises(ItemError, match=f"{len(BODY)} bytes instead of 5") as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", size=5, config=QUICK)
    assert caught.value.reason == "wrong size"


def test_without_length_or_hash_a_torn_file_could_not_be_told(server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = Served(BODY, claimed_size=-1)
    with pytest.raises(ItemError) as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", config=QUICK)
    assert caught.value.reason == "unknown size"
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("sha256", [None, SHA256], ids=["no hash", "hash"])
def test_a_stream_without_end_does_not_fill_the_disk(sha256: str | None, server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = Served(BODY, chunked=True)
    config = FetchConfig(max_bytes=CUT)
    with pytest.raises(ItemError, match=r"w\.pth: it does not end after 0 MB") as caught:
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", sha256=sha256, config=config)
    assert caught.value.reason == "no end"
    assert left_in(tmp_path) == set()


def leave_a_part(server: ResumeServer, folder: Path) -> None:
    """The first 300 kB of BODY, as a broken run leaves them."""
    server.files["w.pth"] = Served(BODY, cut_after=CUT)
    with pytest.raises(ItemError):
        fetch(f"{server.url}/w.pth", folder / "w.pth", config=FetchConfig(tries=1))
    assert (folder / ".w.pth.part").stat().st_size == CUT
    server.ranges.clear()


@pytest.mark.parametrize(
    ("later", "sha256", "body", "ranges"),
    [
        pytest.param(Served(BODY), None, BODY, ["bytes=300000-"], id="same version"),
        pytest.param(Served(OTHER), None, OTHER, ["bytes=300000-"], id="new version, If-Range obeyed"),
        pytest.param(
            Served(OTHER, if_range=False), None, OTHER, ["bytes=300000-", None], id="new version, If-Range ignored"
        ),
        pytest.param(
            Served(BODY[:1000]), None, BODY[:1000], ["bytes=300000-"], id="new version is shorter than what is there"
        ),
        pytest.param(
            Served(BODY[:1000], if_range=False),
            None,
            BODY[:1000],
            ["bytes=300000-", None],
            id="shorter, and the range can't be had",
        ),
        pytest.param(
            Served(OTHER, if_range=False),
            hashlib.sha256(OTHER).hexdigest(),
            OTHER,
            ["bytes=300000-", None],
            id="joined to what does not fit: the hash tells, all of it once more",
        ),
    ],
)
def test_a_later_run_never_joins_two_versions(
    later: Served, sha256: str | None, body: bytes, ranges: list[str | None], server: ResumeServer, tmp_path: Path
) -> None:
    leave_a_part(server, tmp_path)
    server.files["w.pth"] = later
    fetch(f"{server.url}/w.pth", tmp_path / "w.pth", sha256=sha256, config=QUICK)
    assert (tmp_path / "w.pth").read_bytes() == body
    assert server.ranges == ranges


@pytest.mark.parametrize("sha256, range_", [(SHA256, "bytes=300000-"), (None, None)], ids=["hash known", "no hash"])
def test_another_mirror_goes_on_only_where_a_hash_tells(
    sha256: str | None, range_: str | None, server: ResumeServer, tmp_path: Path
) -> None:
    leave_a_part(server, tmp_path)
    server.files["w.pth"] = Served(BODY)
    fetch(f"{server.url}/elsewhere/w.pth", tmp_path / "w.pth", sha256=sha256, config=QUICK)
    assert server.ranges == [range_]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_a_note_that_was_torn_means_from_the_start(server: ResumeServer, tmp_path: Path) -> None:
    leave_a_part(server, tmp_path)
    (tmp_path / ".w.pth.part.json").write_text('{"url": "htt')
    server.files["w.pth"] = Served(BODY)
    fetch(f"{server.url}/w.pth", tmp_path / "w.pth", config=QUICK)
    assert server.ranges == [None]
    assert (tmp_path / "w.pth").read_bytes() == BODY


def test_what_is_complete_but_unpublished_is_not_asked_for_again(server: ResumeServer, tmp_path: Path) -> None:
    leave_a_part(server, tmp_path)
    (tmp_path / ".w.pth.part").write_bytes(BODY)
    fetch(f"{server.url}/w.pth", tmp_path / "w.pth", config=QUICK)
    assert server.ranges == []
    assert (tmp_path / "w.pth").read_bytes() == BODY


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("http://127.0.0.1:9/w.pth", ItemError, "no connection"),
        ("http://no-such-host.invalid/w.pth", ItemError, "no connection"),
        ("file:///etc/hostname", SetupError, "not a http"),
        ("w.pth", SetupError, "not a http"),
        ("http://127.0.0.1:port/w.pth", SetupError, "not an address"),
    ],
)
def test_an_address_that_leads_nowhere(url: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        fetch(url, tmp_path / "w.pth", config=FetchConfig(timeout_s=2, tries=1))
    assert left_in(tmp_path) == set()


def test_a_proxy_is_asked_instead(server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = Served(BODY)
    config = FetchConfig(proxy=server.url)
    fetch("http://weights.example/w.pth", tmp_path / "w.pth", config=config)
    assert (tmp_path / "w.pth").read_bytes() == BODY
    assert server.asked == ["GET http://weights.example/w.pth HTTP/1.1"]


def test_more_than_the_disk_holds_is_refused_at_once(server: ResumeServer, tmp_path: Path) -> None:
    server.files["w.pth"] = Served(BODY, claimed_size=10**15)
    with pytest.raises(SetupError, match="1000000000 MB are needed"):
        fetch(f"{server.url}/w.pth", tmp_path / "w.pth", config=QUICK)


def test_a_write_that_fails_midway_is_one_line_and_what_came_is_kept(server: ResumeServer, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the kernel refuses the write in the same place."""
    server.files["w.pth"] = Served(BODY)
    code = (
        "import sys; from pathlib import Path; from trackverse.cli import run; from trackverse.fetch import fetch\n"
        "sys.exit(run(lambda: len(fetch(sys.argv[1], Path(sys.argv[2])))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, f"{server.url}/w.pth", str(tmp_path / "w.pth")],
        cwd=REPO_DIR,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, CUT)),
    )
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}: can't write the file there: File too large\n"
    assert (tmp_path / ".w.pth.part").read_bytes() == BODY[:CUT]

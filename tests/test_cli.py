"""The command line of all stages: spellings, the work folder, what a user reads when something is wrong."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trackverse import cli, curation_flags, stage
from trackverse.errors import RecordError, SetupError, StopWorkError, TrackverseError
from trackverse.worklist import Tally

REPO_DIR = Path(__file__).resolve().parent.parent


def small_parser() -> cli.Parser:
    """A stage's parser with one flag of every kind that a stage has."""
    parser = cli.stage_parser("A small stage.")
    cli.add_workdir(parser)
    cli.add_slurm(parser)
    parser.add_argument("--output_file", type=cli.folder)
    parser.add_argument("--metafile", type=cli.folder, nargs="+")
    parser.add_argument("--track_thresh", type=cli.fraction, default=0.55)
    parser.add_argument("--no_clips", action="store_true", help="only scenes")
    parser.add_argument("--no_audio", dest="audio", action="store_false")
    parser.add_argument("--max_swaps", type=int, default=2000)
    parser.add_argument("rest", nargs="*")
    return parser


# ---- spellings

SPELLINGS = {
    "underscores": ["--output_file", "a", "--track_thresh", "0.6", "--num_workers", "4"],
    "hyphens": ["--output-file", "a", "--track-thresh", "0.6", "--num-workers", "4"],
    "one of each": ["--output_file", "a", "--track-thresh", "0.6", "--num_workers", "4"],
    "with an equals sign": ["--output-file=a", "--track-thresh=0.6", "--num_workers=4"],
    "--n-workers": ["--output-file", "a", "--track-thresh", "0.6", "--n-workers", "4"],
    "--n_workers": ["--output-file", "a", "--track-thresh", "0.6", "--n_workers=4"],
}


@pytest.mark.parametrize("argv", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_is_one_flag(argv: list[str]) -> None:
    args = small_parser().parse_args(argv)
    assert (args.output_file, args.track_thresh, args.num_workers) == (Path.cwd() / "a", 0.6, 4)


WORDS = {
    "a value keeps its hyphens": (["--output-file", "my-file.json"], ["--output_file", "my-file.json"]),
    "a value after = keeps its hyphens": (["--output-file=my-file=x-y"], ["--output_file=my-file=x-y"]),
    "one dash is no flag of ours": (["-a-b"], ["-a-b"]),
    "all after -- stays": (["--a-b", "--", "--c-d", "--n-workers"], ["--a_b", "--", "--c-d", "--n-workers"]),
    "only the first -- counts": (["--", "--", "--c-d"], ["--", "--", "--c-d"]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("argv", "spelled"), WORDS.values(), ids=WORDS)
def test_spell_flags(argv: list[str], spelled: list[str]) -> None:
    assert cli.spell_flags(argv) == spelled


def test_ids_that_begin_with_a_dash_go_after_two_dashes() -> None:
    args = small_parser().parse_args(["--limit", "3", "--", "-Mi8x8o55Ns", "--n-workers"])
    assert args.rest == ["-Mi8x8o55Ns", "--n-workers"]
    assert args.num_workers == 1


def test_help_shows_one_spelling_and_the_defaults() -> None:
    text = small_parser().format_help()
    assert "--output_file" in text
    assert "--output-file" not in text
    assert "n_workers" not in text
    assert "processes side by side (default: 1)" in text
    assert "only scenes\n" in text  # a switch has no default worth showing


def test_abbreviations_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        small_parser().parse_args(["--output", "a"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --output" in capsys.readouterr().err


# ---- values

FOLDERS = {
    "relative": ("data/hdvila", Path.cwd() / "data/hdvila"),
    "with spaces": ("my videos/all of them", Path.cwd() / "my videos/all of them"),
    "of the user": ("~/videos", Path.home() / "videos"),
    "absolute": ("/data", Path("/data")),
}


@pytest.mark.parametrize(("text", "path"), FOLDERS.values(), ids=FOLDERS)
def test_folders_as_a_user_types_them(text: str, path: Path) -> None:
    assert cli.folder(text) == path


BAD_VALUES = {
    "an empty path": (["--output-file", ""], "is a shell variable unset?"),
    "no worker": (["--num-workers", "0"], "'0' is not a whole number from 1 on"),
    "half a worker": (["--num-workers", "1.5"], "'1.5' is not a whole number from 1 on"),
    "a share over 1": (["--track-thresh", "1.5"], "'1.5' is not a number from 0 to 1"),
    "a share that is no number": (["--track-thresh", "nan"], "'nan' is not a number from 0 to 1"),
}


@pytest.mark.parametrize(("argv", "said"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_value_out_of_bounds_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        small_parser().parse_args(argv)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


NUMBERS: dict[str, tuple[Any, list[str], list[str]]] = {
    "positive": (cli.positive, ["0.1", "30"], ["0", "-1", "inf", "nan", "x"]),
    "at_least_zero": (cli.at_least_zero, ["0", "7"], ["-1", "1.5", "x", ""]),
    "finite": (cli.finite, ["-2.5", "0"], ["inf", "nan", "x"]),
    "temperature": (curation_flags.temperature, ["0", "0.5", "inf"], ["-1", "nan", "x"]),
    "not_negative": (cli.not_negative, ["0", "2.5"], ["-0.1", "inf", "nan", ""]),
    "fraction": (cli.fraction, ["0", "1", "0.5"], ["-0.1", "1.01", "nan"]),
    "at_least_one": (cli.at_least_one, ["1", "99"], ["0", "-3", "x"]),
    "file_name": (cli.file_name, ["lvis", "my classes"], ["../lvis", "a/b", ""]),
}


@pytest.mark.parametrize(("kind", "good", "bad"), NUMBERS.values(), ids=NUMBERS)
def test_bounds(kind: Any, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert str(kind(text)) in (text, f"{text}.0")
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is not"):
            kind(text)


# ---- the work folder

WORKDIRS = {
    "the flag": (["--workdir", "/from/flag"], None, Path("/from/flag")),
    "the environment": ([], "/from/environment", Path("/from/environment")),
    "the flag goes before": (["--workdir", "/from/flag"], "/from/environment", Path("/from/flag")),
    "the user's folder in the environment": ([], "~/db", Path.home() / "db"),
    "a relative one in the environment": ([], "db", Path.cwd() / "db"),
}


@pytest.mark.parametrize(("argv", "variable", "path"), WORKDIRS.values(), ids=WORKDIRS)
def test_the_work_folder(argv: list[str], variable: str | None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKVERSE_DB", raising=False)
    if variable is not None:
        monkeypatch.setenv("TRACKVERSE_DB", variable)
    assert cli.workdir(small_parser().parse_args(argv)) == path


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_without_a_work_folder_it_says_what_to_set(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKVERSE_DB", raising=False)
    if variable is not None:
        monkeypatch.setenv("TRACKVERSE_DB", variable)
    with pytest.raises(SetupError, match=r"--workdir DIR, or export TRACKVERSE_DB=DIR"):
        cli.workdir(small_parser().parse_args([]))


# ---- errors

ENDINGS = {
    "all well": (None, 0, ""),
    "a set-up error": (SetupError("no such file"), 2, "error: no such file\n"),
    "an error of one item that nobody caught": (RecordError("a.json: torn", reason="x"), 1, "error: a.json: torn\n"),
    "the site blocks us": (StopWorkError("blocked"), 1, "error: blocked\n"),
}


@pytest.mark.parametrize(("error", "status", "said"), ENDINGS.values(), ids=ENDINGS)
def test_run(error: TrackverseError | None, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        if error:
            raise error
        return 0

    assert cli.run(main) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("goes_on", "said"), [(True, "goes on from here"), (False, "give the command again")], ids=["a stage", "others"]
)
def test_ctrl_c_is_one_line(goes_on: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    assert cli.run(main, goes_on=goes_on) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


SETUP_ERRORS = {
    "an unknown flag": ("download_videos.py --metafile {file} --no-such-flag", "--no_such_flag"),
    "a flag that is missing": ("download_videos.py", "--metafile"),
    "a value out of bounds": (
        "download_videos.py --metafile {file} --num-workers 0",
        "'0' is not a whole number from 1 on",
    ),
    "no work folder": ("download_videos.py --metafile {file}", "give --workdir DIR, or export TRACKVERSE_DB=DIR"),
    "no such metafile": ("download_videos.py --workdir {dir} --metafile {dir}/none", "none: no such metafile"),
    "a chunk that is not there": (
        "download_videos.py --workdir {dir} --metafile {file} --num-chunks 2 --chunk-id 2",
        "--chunk_id 2: the ids are 0 to 1, of --num_chunks 2",
    ),
    "no tracks": (
        "curate_db.py --output-file {dir}/a.jsonl.gzip --tracks-dir {dir} --criterion random --num-samples 1",
        "no *-meta.jsonl.gzip files",
    ),
}


@pytest.mark.parametrize(("command", "said"), SETUP_ERRORS.values(), ids=SETUP_ERRORS)
def test_a_set_up_error_of_a_real_script_is_status_2_and_one_line(command: str, said: str, tmp_path: Path) -> None:
    metafile = tmp_path / "ids.txt"
    metafile.write_text("QMi8x8o55Ns\n")
    script, *argv = shlex.split(command.format(file=metafile, dir=tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "TRACKVERSE_DB"}
    ended = subprocess.run(
        [sys.executable, REPO_DIR / script, *argv], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ids.txt"]


SCRIPTS = [path.name for path in REPO_DIR.glob("*.py")]
MODULES = [path.stem for path in (REPO_DIR / "trackverse").glob("*.py") if "def main(argv" in path.read_text()]


@pytest.mark.parametrize("name", [*SCRIPTS, *(f"trackverse.{name}" for name in MODULES)])
def test_with_another_python_every_command_says_in_one_line_what_to_do(name: str) -> None:
    """Where nothing is installed: the standard library alone, as without .venv."""
    command = [name] if name.endswith(".py") else ["-m", name]
    ended = subprocess.run([sys.executable, "-S", *command], capture_output=True, text=True, cwd=REPO_DIR)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith("error: ") and "make setup, then source .venv/bin/activate" in ended.stderr


# ---- the command line of a job

COMMANDS = {
    "nothing but defaults": "",
    "numbers": "--limit 3 --track-thresh 0.6 --max-swaps -1",
    "paths with spaces": "--output-file 'my videos/a b.json' --workdir ~/db",
    "a list": "--metafile a.jsonl b.jsonl --limit 2",
    "switches": "--no-clips --no-audio --verbose",
    "a value that is left out": "--retry-failed --limit 2",
    "a value of several words": "--retry-failed 'truncated video'",
    "chunks": "--num-chunks 4 --chunk-id 0",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("slurm", ["", " --slurm --partition gpu --time 60 --slurm-extra qos=high --dry-run"])
def test_to_argv_is_the_command_without_slurm(command: str, slurm: str) -> None:
    parser = small_parser()
    argv = cli.to_argv(parser, parser.parse_args(shlex.split(command + slurm)))
    assert vars(parser.parse_args(argv)) == vars(parser.parse_args(shlex.split(command)))
    assert not {word for word in argv if word.startswith(("--slurm", "--partition", "--time", "--dry"))}


def test_every_switch_of_every_stage_survives_the_way_to_slurm() -> None:
    """Found by the scripts' own parsers, so that a new switch is covered from its first day."""
    found = 0
    for script in REPO_DIR.glob("*.py"):
        parser = importlib.import_module(script.stem).make_parser()
        cli.add_slurm(parser)
        given = argparse.Namespace(**{action.dest: action.default for action in parser._actions})
        for action in parser._actions:
            if action.nargs == 0 and action.dest not in ("help", "slurm", "status", "dry_run"):
                if action.const == action.default:
                    continue  # says what holds anyhow
                changed = argparse.Namespace(**vars(given) | {action.dest: action.const})
                assert cli.to_argv(parser, changed) == action.option_strings[-1:], (script.name, action.dest)
                found += 1
    assert found >= 6


def test_slurm_settings() -> None:
    args = small_parser().parse_args(
        ["--gpus", "1", "--slurm-extra", "constraint=a100", "--slurm-extra", "comment=a=b", "--slurm_extra=exclusive="]
    )
    settings = cli.slurm_settings(args)
    assert settings["gpus"] == 1
    assert settings["extra"] == {"constraint": "a100", "comment": "a=b", "exclusive": ""}
    with pytest.raises(SetupError, match="constraint: not KEY=VALUE"):
        cli.slurm_settings(small_parser().parse_args(["--slurm_extra", "constraint"]))


CPUS = {
    "neither is given": ([], 4),
    "a worker": (["--num_workers", "1"], 1),
    "two workers": (["--num-workers=2"], 2),
    "sixteen workers, by another name": (["--n_workers", "16"], 16),
    "CPUs": (["--cpus", "3"], 3),
    "CPUs before workers": (["--cpus", "3", "--num_workers", "2"], 3),
    "CPUs after workers": (["--num_workers", "8", "--cpus", "3"], 3),
}


@pytest.mark.parametrize("argv, cpus", CPUS.values(), ids=CPUS)
def test_a_job_asks_for_a_cpu_for_each_worker(argv: list[str], cpus: int) -> None:
    assert cli.slurm_settings(small_parser().parse_args(argv))["cpus"] == cpus


# ---- progress


def test_a_log_gets_a_line_a_minute_and_every_item(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 100_000, 25))  # 25 seconds go by between two looks at the clock
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO):
        assert list(cli.progress(range(10), what="clips", total=10)) == list(range(10))
    assert caplog.messages == [f"{number} of 10 clips so far" for number in (2, 5, 8)]


# ---- a whole stage


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Given back as it was: a stage sets it up for its whole process."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    yield
    root.handlers = handlers


def run_stage(argv: list[str], tally: Tally, tmp_path: Path) -> int:
    """A stage whose work is to come back with `tally`."""
    return stage.start(
        cli.stage_parser("A stage."),
        lambda args, rank: tally,
        what="clips",
        output_dir=lambda args: tmp_path,
        argv=argv,
    )


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize(
    ("tally", "status"), [(Tally(done=2), 0), (Tally(done=2, stopped="blocked"), 1)], ids=["done", "stopped"]
)
def test_a_stage_ends_with_its_summary_and_status(
    tally: Tally, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(["--num_workers", "1"], tally, tmp_path) == status
    assert tally.summary("clips") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("level", "num_said", "sums"), [(logging.WARNING, 10, ["15 more entries like these"]), (logging.DEBUG, 25, [])]
)
def test_only_the_first_of_many_bad_lines_are_said_and_all_are_counted(
    level: int, num_said: int, sums: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, tally = tmp_path / "ids.txt", Tally()
    path.write_text("QMi8x8o55Ns\n" + "an id?\n" * 25)
    args = cli.stage_parser("A stage.").parse_args([])
    with caplog.at_level(level, "trackverse"):
        assert [video.video_id for video in stage.videos(args, [path], 0, tally)] == ["QMi8x8o55Ns"]
    assert tally.failed == {"bad line": 25}
    assert [message.split(": ")[0] for message in caplog.messages[:num_said]] == [
        f"{path}:{n}" for n in range(2, 2 + num_said)
    ]
    assert [message.split(";")[0] for message in caplog.messages[num_said:]] == sums


# ---- progress

COUNT_TO_FIVE = """
import itertools, logging, sys, time, types
from trackverse import cli
cli.SECONDS_BETWEEN_LOG_LINES = float(sys.argv[1])
clock = itertools.count(step=6)  # seconds go by between two looks at it, however long it really takes
cli.time = types.SimpleNamespace(monotonic=lambda: next(clock))
cli.set_up_logging(verbose=False)
for number in cli.progress(range(5), what="videos", total=5):
    time.sleep(0.06)
    if number == 2:
        logging.getLogger("trackverse.test").warning("a line of its own")
"""


def test_on_a_terminal_there_is_a_bar_and_log_lines_stand_above_it() -> None:
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    child = subprocess.Popen([sys.executable, "-c", COUNT_TO_FIVE, "0"], cwd=REPO_DIR, stderr=other_end)
    os.close(other_end)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal whose other end is closed
        while chunk := os.read(terminal, 4096):
            shown += chunk
    os.close(terminal)
    assert child.wait() == 0
    text = shown.decode()
    assert "5/5" in text and "videos/s" in text
    assert re.search(r"(^|[\r\n])[^\r\n|]*a line of its own\r?\n", text)
    assert "so far" not in text


@pytest.mark.parametrize("seconds_between, num_lines", [("10", 2), ("60", 0)])
def test_in_a_log_there_are_sparse_lines(seconds_between: str, num_lines: int) -> None:
    command = [sys.executable, "-c", COUNT_TO_FIVE, seconds_between]
    said = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True, check=True).stderr
    assert len(re.findall(r"\d of 5 videos so far", said)) == num_lines
    assert "\r" not in said and "5/5" not in said

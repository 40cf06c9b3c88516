"""Look whether a dataset folder is sound, and repair what can be repaired without loss.

    python -m trackverse.doctor ${TRACKVERSE_DB}
    python -m trackverse.doctor ${TRACKVERSE_DB} --fix

DIR is a work folder, or any folder in it, such as tracks_meta/coco. What is looked at: torn gzip, records against their
progress files, embeddings and what the heads of their gzip members say, track ids that come twice, tracks that were cut
or left over, videos without provenance, notes on blurred videos that are gone, subsets without the file that says how
they were made, segments listed twice, unfinished splits and videos on two sides of one, damaged indices, torn lines,
and what killed processes left lying.
--fix removes only what no reader counts: ends of files that were never committed, temporary files and claims of
processes that have ended, torn lines, and indices, which are made anew. Everything else is told, with what to do. Run
it while no stage is at work.

Exit status: 0 if nothing is wrong (any more), 1 if problems are left.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trackverse import cli, findings
from trackverse.errors import SetupError
from trackverse.findings import Finding
from trackverse.layout import BLURRED_ENDING, FAILED_NAME, INDEX_NAME, SPLIT_PARTS, SUBSETS_DIR, VIDEOS_DIR, Layout


def examine(folder: Path) -> Iterator[Finding]:
    """Everything that is wrong below a folder, as it is found. Hidden files first: they say who is still at work."""
    yield from findings.find_litter(folder)
    seen: dict[Path, Path] = {}
    for meta_path in _walk(folder, "*-meta.jsonl.gzip"):
        yield from findings.examine_tracks(meta_path)
        yield from findings.find_duplicates(meta_path, seen)
    for ending, name in (
        ("-progress.json", "a progress file"),
        ("-embeddings.npy", "embeddings"),
        ("-motion.npy", "motion"),
    ):
        for path in _walk(folder, f"*{ending}"):
            yield from findings.find_orphan(path, ending, name)
    for path in _walk(folder, "*.mp4"):
        if path.parent.parent.name == VIDEOS_DIR:
            yield from findings.examine_video(path)
    for path in _walk(folder, f"*{BLURRED_ENDING}"):
        yield from findings.find_orphan_note(path)
    for path in _walk(folder, FAILED_NAME):
        yield from findings.find_torn_line(path)
    for path in _walk(folder, "*.jsonl.gzip"):
        if SUBSETS_DIR in path.parts:
            yield from findings.examine_subset(path)
    for path in _walk(folder, INDEX_NAME):
        yield from findings.examine_index(path)
    for path in _walk(folder, f"{SPLIT_PARTS[0]}.txt"):
        yield from findings.examine_split(path.parent)
    layout = Layout(folder)
    if layout.scenes_dir.is_dir():
        yield from findings.examine_clips(layout)
        yield from findings.examine_parts(layout)


def _walk(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder with such a name, sorted, but hidden ones."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))


def treat(told: Iterable[Finding], fix: bool) -> tuple[Counter[str], Counter[str]]:
    """Tell each finding, and repair it if asked to: how many of each there were, and how many are left."""
    found, left = Counter[str](), Counter[str]()
    for finding in told:
        found[finding.what] += 1
        how = ""
        if finding.repair is None:
            left[finding.what] += 1
        elif fix:
            finding.repair()
            how = ": repaired"
        else:
            left[finding.what] += 1
            how = " (--fix repairs it)"
        cli.show(f"{finding.what}: {finding.message}{how}")
    return found, left


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.doctor")
    parser.add_argument("folder", type=cli.folder, metavar="DIR", help="work folder, or a folder in it")
    parser.add_argument("--fix", action="store_true", help="repair what can be repaired without loss")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)

    def diagnose() -> int:
        if not args.folder.is_dir():
            raise SetupError(f"{args.folder}: no such folder")
        found, left = treat(examine(args.folder), args.fix)
        if not found:
            cli.show(f"{args.folder}: nothing wrong")
            return 0
        cli.show(f"\n{'finding':<32} {'found':>6} {'left':>6}")
        for what, number in sorted(found.items()):
            cli.show(f"{what:<32} {number:>6} {left[what]:>6}")
        return 1 if left else 0

    return cli.run(diagnose, goes_on=False)


if __name__ == "__main__":
    sys.exit(main())

"""The flags of the filters that cut_videos.py drops segments by, and the scores that they stand for."""

from __future__ import annotations

import logging
import math
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackverse import cli, flat_drawing, learnt_scores, quality, weights
from trackverse.errors import SetupError
from trackverse.fetch import file_sha256
from trackverse.known_weights import BY_NAME
from trackverse.quality import Score, ScoreFilter
from trackverse.scenes import CutConfig

log = logging.getLogger(__name__)
NAMES = ("length", "cartoon", "aesthetics")
MODES = ("off", "score", "drop")
AUTO, BUILT_IN = "auto", "built_in"
CARTOON_WEIGHTS, CLIP_WEIGHTS, HEAD_WEIGHTS = "cartoon-classifier", "clip-vit-l14", "aesthetic-head"
DEFAULTS = CutConfig()


@dataclass(frozen=True)
class Scorer:
    """What a filter judges by: its score's name in the records, that with the files' sha256, and the reason to drop."""

    name: str
    id: str
    reason: str
    load: Callable[[], Score]


def add(parser: cli.Parser) -> None:
    add = parser.add_argument_group("what is dropped").add_argument
    help_text = "length, cartoon, aesthetics: which drop; or NAME=off|score|drop; others score (default: all drop)"
    add("--filters", type=_mode, nargs="+", metavar="NAME", help=help_text)
    help_text = "shortest segment to keep"
    add("--min_scene_len", type=cli.not_negative, default=DEFAULTS.min_scene_len_s, metavar="SECONDS", help=help_text)
    help_text = "longest segment to keep"
    add("--max_scene_len", type=cli.not_negative, default=DEFAULTS.max_scene_len_s, metavar="SECONDS", help=help_text)
    help_text = "largest logit of a segment that is no cartoon"
    add("--max_cartoon", type=cli.finite, default=DEFAULTS.max_cartoon, metavar="LOGIT", help=help_text)
    help_text = "least aesthetic score, or technical quality, of 10"
    add("--min_aesthetics", type=cli.not_negative, default=DEFAULTS.min_aesthetics, metavar="SCORE", help=help_text)
    help_text = f"auto: the published ResNet-18 if {CARTOON_WEIGHTS} is here; built_in: flat drawings; or its file"
    add("--cartoon_model", type=_model, default=AUTO, metavar="MODEL", help=help_text)
    help_text = f"auto: CLIP if {CLIP_WEIGHTS} and {HEAD_WEIGHTS} are here; built_in: technical quality; or the head"
    add("--aesthetics_model", type=_model, default=AUTO, metavar="MODEL", help=help_text)


def _mode(text: str) -> str:
    """ "cartoon" and "cartoon=drop" are the same."""
    name, equals, mode = text.partition("=")
    mode = mode if equals else "drop"
    if name not in NAMES or mode not in MODES:
        choices = f"{', '.join(NAMES)}, alone or with ={', ='.join(MODES)}"
        raise ArgumentTypeError(f"{text!r} is none of {choices}")
    return f"{name}={mode}"


def _model(text: str) -> str:
    return text if text in (AUTO, BUILT_IN) else str(cli.folder(text))


def settings(args: Namespace) -> dict[str, Any]:
    """The fields of a `CutConfig` that the flags stand for. Raises SetupError if weights are missing or changed."""
    modes = _modes(args)
    models = {f"{name}_model": scorer(args).id if modes[name] != "off" else None for name, scorer in SCORERS.items()}
    limits = {"max_cartoon": args.max_cartoon, "min_aesthetics": args.min_aesthetics}
    lengths = {"min_scene_len_s": args.min_scene_len, "max_scene_len_s": args.max_scene_len}
    return modes | lengths | limits | models


def check(args: Namespace) -> None:
    """Say what will judge. Raises SetupError if it can't, or if no length would do."""
    if args.min_scene_len > args.max_scene_len:
        raise SetupError(f"--min_scene_len {args.min_scene_len:g} is more than --max_scene_len {args.max_scene_len:g}")
    found = settings(args)
    for name in SCORERS:
        log.info("%s: %s", name, f"{found[name]} by {found[f'{name}_model']}" if found[name] != "off" else "off")
    if args.aesthetics_model == AUTO and len(_missing_of_clip()) == 1:
        log.info("aesthetics: CLIP lacks a file: python -m trackverse.weights get %s", *_missing_of_clip())
    if args.slurm and not args.dry_run:
        load(args)  # a file that is no such model is told here, and not by every element of the array


def load(args: Namespace) -> list[ScoreFilter]:
    """The filters that look at frames. Raises SetupError if their libraries or weights are missing or wrong."""
    filters = []
    for name, scorer_of in SCORERS.items():
        mode = _modes(args)[name]
        if mode != "off":
            scorer = scorer_of(args)
            least, most = _limits(args, name) if mode == "drop" else (-math.inf, math.inf)
            filters.append(ScoreFilter(scorer.name, scorer.reason, scorer.load(), least, most))
    return filters


def _modes(args: Namespace) -> dict[str, str]:
    named = args.filters or [f"{name}=drop" for name in NAMES]
    return dict.fromkeys(NAMES, "score") | dict(one.split("=") for one in named)


def _limits(args: Namespace, name: str) -> tuple[float, float]:
    """The least and the largest score of what is kept."""
    return (-math.inf, args.max_cartoon) if name == "cartoon" else (args.min_aesthetics, math.inf)


def _cartoon_scorer(args: Namespace) -> Scorer:
    if args.cartoon_model == BUILT_IN or (args.cartoon_model == AUTO and not _is_here(CARTOON_WEIGHTS)):
        digest = _short(file_sha256(flat_drawing.COEFFICIENTS))
        return Scorer("flat_drawing", f"flat_drawing sha256:{digest}", "flat drawing", flat_drawing.FlatDrawing)
    path, digest = _file(args.cartoon_model, CARTOON_WEIGHTS)
    return Scorer("cartoon", f"resnet18 sha256:{_short(digest)}", "cartoon", lambda: learnt_scores.CartoonNet(path))


def _aesthetics_scorer(args: Namespace) -> Scorer:
    if args.aesthetics_model == BUILT_IN or (args.aesthetics_model == AUTO and _missing_of_clip()):
        name = "technical_quality"
        return Scorer(name, name, "low technical quality", lambda: quality.technical_quality)
    clip, clip_digest = weights.find_with_sha256(CLIP_WEIGHTS)
    head, head_digest = _file(args.aesthetics_model, HEAD_WEIGHTS)
    name = f"clip-vit-l14 sha256:{_short(clip_digest)} linear sha256:{_short(head_digest)}"
    return Scorer("aesthetics", name, "low aesthetics", lambda: learnt_scores.AestheticNet(clip, head))


def _missing_of_clip() -> list[str]:
    return [name for name in (CLIP_WEIGHTS, HEAD_WEIGHTS) if not _is_here(name)]


SCORERS: dict[str, Callable[[Namespace], Scorer]] = {"cartoon": _cartoon_scorer, "aesthetics": _aesthetics_scorer}


def _is_here(name: str) -> bool:
    return (weights.folder() / BY_NAME[name].filename).is_file()


def _file(model: str, name: str) -> tuple[Path, str]:
    """The file that a flag names, or the published one, and its sha256. Raises SetupError if it isn't there."""
    if model == AUTO:
        return weights.find_with_sha256(name)
    path = Path(model)
    if not path.is_file():
        raise SetupError(f"{path}: no such file; give {AUTO}, {BUILT_IN} or a file of weights")
    return path, file_sha256(path)


def _short(digest: str) -> str:
    return digest[:12]  # enough to tell two files apart

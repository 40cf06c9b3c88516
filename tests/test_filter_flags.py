"""Which filters the flags stand for, what they judge by, and what is said where that can't be."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stills

from trackverse import cli, filter_flags, weights
from trackverse.errors import SetupError
from trackverse.filter_flags import CARTOON_WEIGHTS, CLIP_WEIGHTS, HEAD_WEIGHTS
from trackverse.flat_drawing import FlatDrawing
from trackverse.known_weights import BY_NAME
from trackverse.quality import judge_frames, technical_quality
from trackverse.scenes import CutConfig

HAS_TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("open_clip")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs torch and open_clip (make detic)")


@pytest.fixture(autouse=True)
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, whatever this machine has."""
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def parse(*argv: str) -> Namespace:
    parser = cli.stage_parser("")
    filter_flags.add(parser)
    cli.add_slurm(parser)
    return parser.parse_args(argv)


def modes(*argv: str) -> tuple[str, str, str]:
    config = CutConfig(**filter_flags.settings(parse(*argv)))
    return config.length, config.cartoon, config.aesthetics


MODES = {
    "all of them drop": ((), ("drop", "drop", "drop")),
    "the documented command": (("--filters", "length", "cartoon", "aesthetics"), ("drop", "drop", "drop")),
    "one that isn't named scores": (("--filters", "length", "cartoon"), ("drop", "drop", "score")),
    "each has its mode": (("--filters", "length=off", "cartoon=score", "aesthetics=drop"), ("off", "score", "drop")),
    "the last word counts": (("--filters", "cartoon", "cartoon=off"), ("score", "off", "score")),
}


@pytest.mark.parametrize("case", MODES)
def test_filters_and_their_modes(case: str) -> None:
    argv, expected = MODES[case]
    assert modes(*argv) == expected


@pytest.mark.parametrize("word", ["cartoons", "cartoon=maybe", "=drop", "cartoon=", ""])
def test_a_filter_that_there_is_not(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--filters", word)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "length, cartoon, aesthetics" in said and said.count("\n") == 1


def test_flags_survive_the_way_to_a_slurm_job() -> None:
    parser = cli.stage_parser("")
    filter_flags.add(parser)
    argv = ["--filters", "length", "cartoon=off", "--max_cartoon", "-1.5", "--cartoon_model", "my weights.pth"]
    args = parser.parse_args(argv)
    assert parser.parse_args(cli.to_argv(parser, args)) == args


def test_without_weights_what_is_built_in_judges() -> None:
    args = parse()
    config = CutConfig(**filter_flags.settings(args))
    assert config.cartoon_model is not None and config.cartoon_model.startswith("flat_drawing sha256:")
    assert config.aesthetics_model == "technical_quality"
    cartoon, aesthetics = filter_flags.load(args)
    assert isinstance(cartoon.score, FlatDrawing) and aesthetics.score is technical_quality
    for drawn in (True, False):
        image = stills.DRAWN["cartoon houses"] if drawn else stills.street(0)
        scores, reason = judge_frames([cartoon, aesthetics], image[None])
        assert set(scores) == {"flat_drawing", "technical_quality"}
        assert reason == ("flat drawing" if drawn else None)


def test_what_is_off_is_not_looked_at_and_what_scores_drops_nothing() -> None:
    args = parse("--filters", "cartoon=score", "aesthetics=off")
    assert filter_flags.settings(args)["aesthetics_model"] is None
    (cartoon,) = filter_flags.load(args)
    scores, reason = judge_frames([cartoon], stills.DRAWN["cartoon houses"][None])
    assert scores["flat_drawing"] is not None and scores["flat_drawing"] > 0 and reason is None


def test_thresholds() -> None:
    drawing = stills.DRAWN["cartoon houses"][None]
    cartoon, aesthetics = filter_flags.load(parse("--max_cartoon", "99", "--min_aesthetics", "9.9"))
    assert judge_frames([cartoon], drawing)[1] is None
    assert judge_frames([aesthetics], stills.street(0)[None])[1] == "low technical quality"


def test_half_of_clip_is_told(weights_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (weights_dir / BY_NAME[CLIP_WEIGHTS].filename).write_bytes(b"clip")
    with caplog.at_level(logging.INFO):
        filter_flags.check(parse())
    assert "aesthetics: drop by technical_quality" in caplog.text
    assert f"python -m trackverse.weights get {HEAD_WEIGHTS}" in caplog.text


def test_weights_that_are_not_there_are_told(tmp_path: Path, weights_dir: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.pth: no such file"):
        filter_flags.check(parse("--cartoon_model", str(tmp_path / "none.pth")))
    with pytest.raises(SetupError, match=f"weights get {CLIP_WEIGHTS}"):
        filter_flags.check(parse("--aesthetics_model", str(tmp_path / "head.pth")))
    (weights_dir / BY_NAME[CLIP_WEIGHTS].filename).write_bytes(b"not what was published")
    (weights_dir / BY_NAME[HEAD_WEIGHTS].filename).write_bytes(b"nor this")
    with pytest.raises(SetupError, match="its sha256 is"):
        filter_flags.check(parse())


def save_cartoon_net(path: Path, logit: float) -> Path:
    """The layout of the published file; the first output is always `logit`."""
    import torch
    from torchvision.models import resnet18

    state = resnet18(num_classes=2).state_dict()
    state["fc.weight"].zero_()
    state["fc.bias"].copy_(torch.tensor([logit, -logit]))
    torch.save(state, path)
    return path


@needs_torch
def test_the_published_cartoon_classifier_is_taken_where_it_is(tmp_path: Path, weights_dir: Path) -> None:
    path = save_cartoon_net(weights_dir / BY_NAME[CARTOON_WEIGHTS].filename, 1.5)
    photo = stills.street(0)[None]
    cartoon, _ = filter_flags.load(parse())
    assert filter_flags.settings(parse())["cartoon_model"].startswith("resnet18 sha256:")
    assert judge_frames([cartoon], photo) == ({"cartoon": 1.5}, "cartoon")
    assert judge_frames(filter_flags.load(parse("--filters", "length"))[:1], photo) == ({"cartoon": 1.5}, None)
    assert "flat_drawing" in filter_flags.settings(parse("--cartoon_model", "built_in"))["cartoon_model"]
    other = shutil.move(path, tmp_path / "my weights.pth")
    (cartoon, _) = filter_flags.load(parse("--cartoon_model", str(other), "--max_cartoon", "2"))
    assert judge_frames([cartoon], photo) == ({"cartoon": 1.5}, None)


@needs_torch
def test_clip_is_taken_where_it_is(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the published files, whose sha256 nothing else has: a small tower, and a head that gives 3.9."""
    import torch
    from test_learnt_scores import linear_head, small_clip

    entries: dict[str, Any] = {CLIP_WEIGHTS: small_clip().state_dict(), HEAD_WEIGHTS: linear_head().state_dict()}
    entries[HEAD_WEIGHTS]["weight"].zero_()
    entries[HEAD_WEIGHTS]["bias"].fill_(3.9)
    for name, state in entries.items():
        monkeypatch.setitem(BY_NAME, name, replace(BY_NAME[name], size=None, sha256=None))
        torch.save(state, weights_dir / BY_NAME[name].filename)
    _, aesthetics = filter_flags.load(parse())
    assert filter_flags.settings(parse())["aesthetics_model"].startswith("clip-vit-l14 sha256:")
    photos = np.stack([stills.street(0)] * 2)
    assert judge_frames([aesthetics], photos) == ({"aesthetics": 3.9}, "low aesthetics")
    _, aesthetics = filter_flags.load(parse("--min_aesthetics", "3.9"))
    assert judge_frames([aesthetics], photos) == ({"aesthetics": 3.9}, None)
    assert filter_flags.settings(parse("--aesthetics_model", "built_in"))["aesthetics_model"] == "technical_quality"


@needs_torch
def test_a_wrong_network_is_told_before_anything_is_submitted(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "wrong.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(SetupError, match=r"wrong\.pth: not a ResNet-18 of two classes"):
        filter_flags.check(parse("--cartoon_model", str(path), "--slurm"))


def test_the_settings_can_be_written_down() -> None:
    found = filter_flags.settings(parse())
    assert CutConfig(**json.loads(json.dumps(found))) == CutConfig(**found)

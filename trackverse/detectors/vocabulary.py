"""The classes that Detic looks for: their names, and the classifier made of them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trackverse import files, weights
from trackverse.detectors import text_tower
from trackverse.errors import SetupError
from trackverse.layout import ASSETS_DIR, lock_path
from trackverse.types import Float32
from trackverse.vectors import load_matrix
from trackverse.wording import counted

log = logging.getLogger(__name__)
BUILT_IN = ("coco", "lvis", "in1k_coco")
PUBLISHED_CLASSIFIERS = {"coco": "coco-classifier", "lvis": "lvis-classifier"}
PROMPT = "a {}"  # as in the published classifiers; the article is the same before a vowel


@dataclass(frozen=True)
class Vocabulary:
    """Column n of `matrix`, (512, C), is the CLIP embedding of class `labels[n]`. Columns have no particular length."""

    labels: tuple[str, ...]
    matrix: Float32


def load_labels(vocab: str) -> tuple[str, ...]:
    """The class names of a built-in vocabulary or of a text file, in the order of their ids.

    Raises SetupError for a file that isn't UTF-8 text with one class a line, each once.
    """
    return read_labels(_label_path(vocab))


def load_vocabulary(vocab: str) -> Vocabulary:
    """A built-in vocabulary or that of a text file, with its classifier.

    `lvis` and `coco` have a published one; for others CLIP's text tower makes it, which takes a minute for a thousand
    classes, and it is kept beside the weights. Raises SetupError as `load_labels` does, and if weights or open_clip are
    missing.
    """
    labels = load_labels(vocab)
    if vocab in PUBLISHED_CLASSIFIERS:
        return Vocabulary(labels, _published_matrix(PUBLISHED_CLASSIFIERS[vocab], len(labels)))
    return Vocabulary(labels, _encoded_matrix(_label_path(vocab), labels))


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line. Runs of blanks count as one. Raises SetupError naming the line."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise SetupError(f"{path}: can't read the vocabulary: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise SetupError(f"{path}: the vocabulary is empty; it should hold one class a line")
    first_lines: dict[str, int] = {}
    labels = []
    for number, line in enumerate(lines, start=1):
        label = _parse_label(line, f"{path}, line {number}")
        # CLIP reads no capitals: two such classes would have the same column, and the second would never be found.
        first = first_lines.setdefault(label.casefold(), number)
        if first != number:
            raise SetupError(f"{path}, line {number}: {label!r} is already in line {first}; remove one of them")
        labels.append(label)
    return tuple(labels)


def _parse_label(line: bytes, where: str) -> str:
    try:
        label = " ".join(line.decode().split())
    except UnicodeDecodeError as error:
        raise SetupError(f"{where}: not UTF-8 text; save the file as UTF-8") from error
    if not label:
        raise SetupError(f"{where}: no class name; remove the empty line")
    if not label.isprintable():
        raise SetupError(f"{where}: characters that are no text ({label[:40]!r})")
    return label


def _label_path(vocab: str) -> Path:
    if vocab in BUILT_IN:
        return ASSETS_DIR / "vocab" / f"{vocab}.txt"
    path = Path(vocab).expanduser()
    if not path.is_file():
        raise SetupError(
            f"vocabulary {vocab}: neither one of {', '.join(BUILT_IN)} nor a text file of one class a line"
        )
    return path


def _published_matrix(name: str, num_labels: int) -> Float32:
    """Stored as (C, 512), in half precision for LVIS."""
    path = weights.find(name)
    matrix = _load_matrix(path)
    if matrix is None or matrix.shape != (num_labels, text_tower.EMBEDDING_DIM):
        raise SetupError(f"{path}: not a ({num_labels}, {text_tower.EMBEDDING_DIM}) matrix of finite numbers")
    return np.ascontiguousarray(matrix.T)


def _encoded_matrix(path: Path, labels: tuple[str, ...]) -> Float32:
    """Made by CLIP's text tower, or kept from the last time that the same names met the same weights."""
    weights_path, weights_sha256 = weights.find_with_sha256("clip-vit-b32")
    prompts = [PROMPT.format(label) for label in labels]
    key = hashlib.sha256(json.dumps([prompts, weights_sha256]).encode()).hexdigest()[:32]
    kept_path = weights.folder() / "vocabularies" / f"{key}.npy"
    kept = _kept_matrix(kept_path, len(labels))
    if kept is not None:
        return kept
    tokens = text_tower.tokenize(prompts)
    for number, prompt in enumerate(tokens, start=1):
        if len(prompt) > text_tower.MAX_TOKENS:
            raise SetupError(
                f"{path}, line {number}: {len(prompt)} tokens, CLIP reads {text_tower.MAX_TOKENS}; use a shorter name"
            )
    matrix = None
    try:
        with files.claim(lock_path(kept_path), wait=True):  # of many workers that start at once, one does it
            matrix = _kept_matrix(kept_path, len(labels))
            if matrix is None:
                matrix = _encode(path, tokens, weights_path)
                with files.atomic_write(kept_path) as file:
                    np.save(file, matrix)
    except OSError as error:
        log.warning("%s: can't keep the classifier for the next time: %s", kept_path, error.strerror)
    return _encode(path, tokens, weights_path) if matrix is None else matrix


def _encode(path: Path, tokens: list[list[int]], weights_path: Path) -> Float32:
    log.info("%s: %s through CLIP's text tower, once", path.name, counted(len(tokens), "classes"))
    return np.ascontiguousarray(text_tower.encode(tokens, weights_path).T)


def _kept_matrix(path: Path, num_labels: int) -> Float32 | None:
    kept = _load_matrix(path) if path.exists() else None
    return kept if kept is not None and kept.shape == (text_tower.EMBEDDING_DIM, num_labels) else None


def _load_matrix(path: Path) -> Float32 | None:
    """A float32 matrix of finite numbers in a .npy file; None if it holds anything else."""
    try:
        matrix: Float32 = load_matrix(path).astype(np.float32)
    except (OSError, ValueError):
        return None
    return matrix if np.isfinite(matrix).all() else None

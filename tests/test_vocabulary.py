"""Vocabularies: the lists that come with the repository, files of users, and CLIP's text tower."""

from __future__ import annotations

import dataclasses
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trackverse.detectors import text_tower, vocabulary
from trackverse.detectors.vocabulary import load_labels, load_vocabulary, read_labels
from trackverse.errors import SetupError
from trackverse.known_weights import BY_NAME

GOLDEN = Path(__file__).parent / "golden" / "clip_text_tower.npz"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder in which any file passes for the published one: the real ones can't be had in a test."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv("TRACKVERSE_WEIGHTS", str(path))
    for name, entry in BY_NAME.items():
        monkeypatch.setitem(BY_NAME, name, dataclasses.replace(entry, size=None, sha256=None))
    return path


def test_lvis_is_in_the_order_of_its_ids() -> None:
    labels = load_labels("lvis")
    assert len(labels) == 1203
    spots = {0: "aerosol can", 2: "airplane", 79: "cow", 135: "bow (weapon)", 136: "bow (decorative ribbons)"}
    spots |= {224: "cat", 377: "dog", 792: "person", 1114: "train (railroad vehicle)", 1202: "zucchini"}
    assert {index: labels[index] for index in spots} == spots


def test_coco_is_in_the_order_of_its_ids() -> None:
    labels = load_labels("coco")
    assert (len(labels), labels[0], labels[16], labels[79]) == (80, "person", "dog", "toothbrush")


def test_in1k_coco_is_sorted_and_has_each_name_once() -> None:
    labels = load_labels("in1k_coco")
    folded = [label.casefold() for label in labels]
    assert folded == sorted(set(folded))
    assert len(labels) == 1061  # 80 + 1000, less 18 in both, less the dog that is spelled like a garment
    assert set(load_labels("coco")) < set(labels)
    assert {"tench", "toilet tissue", "Egyptian cat", "cardigan"} < set(labels)


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ("person\nsports ball\n", ("person", "sports ball")),
        ("person\nsports ball", ("person", "sports ball")),
        ("\ufeffperson\r\nsports ball\r\n", ("person", "sports ball")),
        ("  3D   printer \ncrème brûlée\t\n", ("3D printer", "crème brûlée")),
    ],
    ids=["plain", "no line end at the end", "saved on Windows", "odd blanks, accents"],
)
def test_a_text_file_of_one_class_a_line(body: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(body.encode())
    assert load_labels(str(tmp_path / "mine.txt")) == labels


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the vocabulary is empty"),
        (b"\xef\xbb\xbf", "the vocabulary is empty"),
        (b"cat\n\ndog\n", "line 2: no class name; remove the empty line"),
        (b"cat\ndog\n\n", "line 3: no class name"),
        (b"cat\ndog\ncat\n", "line 3: 'cat' is already in line 1"),
        (b"Cardigan\ndog\ncardigan\n", "line 3: 'cardigan' is already in line 1"),
        (b"polar  bear\npolar bear\n", "line 2: 'polar bear' is already in line 1"),
        ("crème\nbrûlée\n".encode("latin-1"), "line 1: not UTF-8 text"),
        ("cat\n".encode("utf-16"), "line 1: not UTF-8 text"),
        (b"cat\n\x00\x01\x02\n", "line 2: characters that are no text"),
    ],
)
def test_a_bad_file_is_one_line_with_file_and_line(body: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(body)
    with pytest.raises(SetupError) as caught:
        read_labels(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_vocabulary_that_is_neither_built_in_nor_a_file() -> None:
    with pytest.raises(SetupError, match="vocabulary lviss: neither one of coco, lvis, in1k_coco nor a text file"):
        load_labels("lviss")


def test_published_classifiers_are_turned_to_one_column_a_class(folder: Path, rng: np.random.Generator) -> None:
    stored = rng.standard_normal((1203, 512)).astype(np.float16)
    np.save(folder / BY_NAME["lvis-classifier"].filename, stored)
    loaded = load_vocabulary("lvis")
    assert loaded.labels == load_labels("lvis")
    assert loaded.matrix.dtype == np.float32 and loaded.matrix.flags.c_contiguous
    np.testing.assert_array_equal(loaded.matrix, stored.T.astype(np.float32))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    "stored",
    [
        np.zeros((1203, 512), np.float16),
        np.zeros((512, 80), np.float32),
        np.full((80, 512), np.nan, np.float32),
        np.zeros(512, np.float32),
        np.array(["no", "numbers"]),
        np.array([{"a": "pickle"}], dtype=object),
    ],
    ids=["LVIS's", "turned already", "not finite", "one row", "text", "a pickle"],
)
def test_a_classifier_that_does_not_fit_is_one_line(stored: np.ndarray, folder: Path) -> None:
    path = folder / BY_NAME["coco-classifier"].filename
    np.save(path, stored)
    with pytest.raises(SetupError, match=r"not a \(80, 512\) matrix of finite numbers|no whole matrix in a .npy file"):
        load_vocabulary("coco")


def test_missing_weights_say_how_to_get_them(folder: Path) -> None:
    with pytest.raises(SetupError, match=r"python -m trackverse.weights get coco-classifier"):
        load_vocabulary("coco")
    with pytest.raises(SetupError, match=r"python -m trackverse.weights get clip-vit-b32"):
        load_vocabulary("in1k_coco")


def test_without_open_clip_a_custom_vocabulary_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipfile.ZipFile(folder / "ViT-B-32.pt", "w").close()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SetupError, match="make detic"):
        load_vocabulary("in1k_coco")


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The text tower at its full size (250 MB), made-up weights, in a TorchScript archive like the published one."""
    torch = pytest.importorskip("torch", reason="the optional PyTorch is not installed")
    open_clip = pytest.importorskip("open_clip", reason="the optional open_clip is not installed")
    from detic_weights import made_up

    tower = open_clip.transformer.TextTransformer(act_layer=open_clip.transformer.QuickGELU)
    state = {name: torch.from_numpy(made_up(name, tuple(value.shape))) for name, value in tower.state_dict().items()}
    tower.load_state_dict(state)
    path = tmp_path_factory.mktemp("clip") / "ViT-B-32.pt"
    with torch.no_grad():
        torch.jit.trace(tower.eval(), torch.zeros(1, 77, dtype=torch.long)).save(str(path))
    yield path
    path.unlink()  # pytest keeps the folders of three runs


@pytest.mark.slow
def test_the_text_tower_gives_what_the_published_code_gives(clip_weights: Path) -> None:
    """The golden file holds tokens and embeddings that Detic's own text encoder made with the same made-up weights."""
    golden = np.load(GOLDEN)
    tokens = text_tower.tokenize([f"a {name}" for name in golden["names"]])
    for ours, theirs in zip(tokens, golden["tokens"], strict=True):
        assert ours == [int(token) for token in theirs if token]
    found = text_tower.encode(tokens, clip_weights)
    assert found.shape == (10, 512) and found.dtype == np.float32
    np.testing.assert_allclose(found, golden["features"], atol=2e-5)  # the other activation is off by 5e-2


@pytest.mark.slow
def test_a_custom_vocabulary_is_encoded_once_and_then_kept(
    clip_weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "ViT-B-32.pt").symlink_to(clip_weights)
    golden = np.load(GOLDEN)
    mine = tmp_path / "mine.txt"
    mine.write_text("person\nBand Aid\ndog\n")
    rows = [list(golden["names"]).index(name) for name in ("person", "Band Aid", "dog")]
    first = load_vocabulary(str(mine))
    assert first.labels == ("person", "Band Aid", "dog")
    np.testing.assert_allclose(first.matrix, golden["features"][rows].T, atol=2e-5)

    encoded: list[int] = []
    encode = text_tower.encode
    monkeypatch.setattr(vocabulary.text_tower, "encode", lambda *args: (encoded.append(1), encode(*args))[1])
    np.testing.assert_array_equal(load_vocabulary(str(mine)).matrix, first.matrix)
    assert encoded == []
    (kept,) = (folder / "vocabularies").iterdir()
    kept.write_bytes(b"torn")
    np.testing.assert_array_equal(load_vocabulary(str(mine)).matrix, first.matrix)
    assert encoded == [1]
    mine.write_text("person\nBand Aid\ncat\n")
    load_vocabulary(str(mine))
    assert encoded == [1, 1]


def test_of_workers_that_start_at_once_one_encodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tower's part is played by one that takes its time."""
    encoded: list[int] = []

    def encode(tokens: list[list[int]], weights: Path) -> np.ndarray:
        encoded.append(len(tokens))
        time.sleep(0.3)
        return np.ones((len(tokens), 512), np.float32)

    monkeypatch.setattr(vocabulary.text_tower, "tokenize", lambda prompts: [[1, 2]] * len(prompts))
    monkeypatch.setattr(vocabulary.text_tower, "encode", encode)
    monkeypatch.setattr(vocabulary.weights, "find_with_sha256", lambda name: (tmp_path / "w.pt", "0" * 64))
    mine = tmp_path / "mine.txt"
    mine.write_text("cat\ndog\n")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load_vocabulary, [str(mine)] * 4))
    assert encoded == [2]
    assert all((vocab.matrix == 1).all() for vocab in found)
    assert [path.suffix for path in (folder / "vocabularies").iterdir()] == [".npy"]


def test_a_folder_that_can_t_be_written_costs_the_time_again_and_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vocabulary.text_tower, "tokenize", lambda prompts: [[1, 2]] * len(prompts))
    monkeypatch.setattr(vocabulary.text_tower, "encode", lambda tokens, weights: np.ones((len(tokens), 512)))
    monkeypatch.setattr(vocabulary.weights, "find_with_sha256", lambda name: (tmp_path / "w.pt", "0" * 64))
    (folder / "vocabularies").write_text("not a folder")
    mine = tmp_path / "mine.txt"
    mine.write_text("cat\ndog\n")
    assert load_vocabulary(str(mine)).matrix.shape == (512, 2)
    assert "can't keep the classifier for the next time" in caplog.text


@pytest.mark.slow
def test_a_name_longer_than_clip_reads_is_one_line(clip_weights: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "ViT-B-32.pt").symlink_to(clip_weights)
    mine = tmp_path / "mine.txt"
    mine.write_text("dog\n" + "very " * 73 + "cat\n")  # with start, "a" and end it is 77 tokens
    assert load_vocabulary(str(mine)).matrix.shape == (512, 2)
    mine.write_text("dog\n" + "very " * 74 + "cat\n")
    with pytest.raises(SetupError, match=r"mine.txt, line 2: 78 tokens, CLIP reads 77"):
        load_vocabulary(str(mine))


@pytest.mark.slow
def test_other_weights_are_not_taken_for_the_text_tower(clip_weights: Path, folder: Path) -> None:
    (folder / "ViT-B-32.pt").write_bytes((Path(__file__).parent / "golden" / "torchscript_tiny.pt").read_bytes())
    with pytest.raises(SetupError, match="not the text tower of CLIP ViT-B/32"):
        load_vocabulary("in1k_coco")

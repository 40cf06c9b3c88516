"""Blurring: how many drawn plates go, how much of the vehicles goes with them, and what it costs.

    python benchmarks/blur.py
    python benchmarks/blur.py --only cost       25 s a round on one free core, with a table after each

Plates of seven layouts for cars and three for motorcycles are drawn onto real vehicles. Of three of them, a van and a
car of the demo's street and the motorcycle of scikit-image, which is seen from the side, the search has been trained on
pictures. Twelve others were looked at only afterwards: cars, vans and a pick-up in two streets, whose own plates are
painted over. Each is scaled so that the plate is as many pixels high as it says, in a piece of its street of up to
1280x720, mirrored at random, with tilt, perspective, blur, noise and JPEG's loss. A plate counts as found when 95 % of
its area is blurred. The detector has to find the vehicle itself. Enlarged pictures are softer than filmed ones, and
twelve vehicles are few: take the figures as a check on the method, not as what to expect of your videos.

The cost is the wall time, and the CPU time, which a busy machine changes less, of the stage for a piece of the street
video, against the `deface` command on the same file.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from trackverse import plates
from trackverse.layout import ASSETS_DIR, REPO_DIR
from trackverse.types import UInt8
from trackverse.video import VideoWriter, read_frames

STREET = ASSETS_DIR / "demo" / "street.mp4"
PLATE_HEIGHTS_PX = (8, 12, 16, 24, 32)
FOUND_FRAC = 0.95
FRAME_WH = (1280, 720)
STREETS_DIR = REPO_DIR / "benchmarks" / "streets"


@dataclass(frozen=True)
class Layout:
    """A plate's size in mm, its lines of letters and its colours."""

    name: str
    size_mm: tuple[int, int]
    lines: tuple[str, ...]
    ground: str
    letters: str
    band: str | None = None


CAR_LAYOUTS = (
    Layout("EU", (520, 110), ("B TV 2719",), "#f4f4f0", "#101010", "#1a3f9a"),
    Layout("UK rear", (520, 111), ("AB51 KTR",), "#f0c020", "#101010"),
    Layout("NL", (520, 110), ("61-TVB-8",), "#f2b700", "#151515", "#1a3f9a"),
    Layout("US", (305, 152), ("7KTR 294",), "#f2f3f5", "#1b2c63"),
    Layout("Japan", (330, 165), ("54 300", "27-19"), "#f0f2ee", "#0d4a2b"),
    Layout("China", (440, 140), ("KA 82R47",), "#1c48a8", "#f5f5f5"),
    Layout("Malaysia", (520, 110), ("WTV 2719",), "#141414", "#f0f0f0"),
)
MOTORCYCLE_LAYOUTS = (
    Layout("EU two lines", (180, 200), ("B TV", "27 19"), "#f4f4f0", "#101010"),
    Layout("UK two lines", (229, 178), ("AB51", "KTR"), "#f0c020", "#101010"),
    Layout("US motorcycle", (178, 102), ("7K 294",), "#f2f3f5", "#1b2c63"),
)


# Where the plate is on a vehicle of streets/<picture>.jpg, and how large a px is there, from the plate or the body.
HELD_OUT = (
    ("Prius", 1, (151, 282), 10.5),
    ("Prius, light", 1, (337, 254), 14.5),
    ("Prius wagon", 1, (488, 228), 18),
    ("Camry", 1, (724, 261), 11.7),
    ("pick-up", 2, (173, 340), 11.7),
    ("SUV", 2, (550, 331), 8.5),
    ("Touran", 2, (1037, 253), 23),
    ("delivery van", 2, (1132, 242), 30),
    ("Lexus", 2, (1237, 334), 6.1),
    ("BMW", 2, (2036, 314), 8),
    ("saloon", 2, (1454, 226), 29),
    ("SUV, half hidden", 2, (1302, 227), 29),
)


@dataclass(frozen=True)
class Scene:
    """A real picture (H, W, 3) RGB with a vehicle, where its plate is, and its scale there."""

    name: str
    picture: UInt8
    plate_xy: tuple[float, float]
    mm_a_px: float
    layouts: tuple[Layout, ...]

    def part(self, scale: float, rng: np.random.Generator) -> tuple[UInt8, np.ndarray]:
        """A piece of the picture that is a frame once it is scaled, and where the plate is in it."""
        size_wh = np.ceil(np.array(FRAME_WH) / scale)
        free_wh = np.maximum(0, np.array(self.picture.shape[1::-1]) - size_wh)
        plate_xy = np.array(self.plate_xy)
        left, top = np.clip(plate_xy - size_wh * rng.uniform((0.25, 0.45), (0.75, 0.8)), 0, free_wh).astype(int)
        width, height = size_wh.astype(int)
        return self.picture[top : top + height, left : left + width], plate_xy - (left, top)


def known_scenes() -> list[Scene]:
    """The scale comes from the vehicles' own plates (520 mm wide) and the motorcycle's length (2.1 m)."""
    street = next(read_frames(STREET)).images[0]
    return [
        Scene("van", street, (664.0, 82.4), 44, CAR_LAYOUTS),
        Scene("car", street, (751.6, 76.4), 36, CAR_LAYOUTS),
        Scene("motorcycle", data.stereo_motorcycle()[0], (128, 240), 3.6, MOTORCYCLE_LAYOUTS),
    ]


def held_out_scenes() -> list[Scene]:
    streets = {number: np.asarray(Image.open(STREETS_DIR / f"{number}.jpg")) for number in (1, 2)}
    return [Scene(name, streets[number], xy, mm_a_px, CAR_LAYOUTS) for name, number, xy, mm_a_px in HELD_OUT]


def draw_plate(layout: Layout, height_px: int) -> UInt8:
    """(h, w, 3) RGB picture of a plate, drawn large and then shrunk."""
    width, height = 3 * layout.size_mm[0], 3 * layout.size_mm[1]
    plate = Image.new("RGB", (width, height), layout.ground)
    draw = ImageDraw.Draw(plate)
    draw.rectangle((0, 0, width - 1, height - 1), outline=layout.letters, width=6)
    begin = height // 3 if layout.band else 0
    if layout.band:
        draw.rectangle((0, 0, begin, height), fill=layout.band)
    line_h = height / len(layout.lines)
    for number, line in enumerate(layout.lines):
        font = ImageFont.load_default(line_h)
        size = line_h * min(0.95, 0.9 * (width - begin) / draw.textlength(line, font))
        centre = ((begin + width) / 2, (number + 0.5) * line_h)
        draw.text(centre, line, layout.letters, ImageFont.load_default(size), anchor="mm", stroke_width=4)
    return cv2.resize(np.asarray(plate), (width * height_px // height, height_px), interpolation=cv2.INTER_AREA)


def stage_picture(scene: Scene, layout: Layout, height_px: int, rng: np.random.Generator) -> tuple[UInt8, np.ndarray]:
    """The vehicle with the plate on it (H, W, 3), and the plate's corners (4, 2) px."""
    scale = height_px / (layout.size_mm[1] / scene.mm_a_px)
    part, plate_xy = scene.part(scale, rng)
    picture = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    centre = plate_xy * scale
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
        centre[0] = picture.shape[1] - centre[0]
    plate = draw_plate(layout, height_px)
    corners = _corners(plate, rng) + centre + rng.uniform(-0.3, 0.3, 2) * height_px
    source = np.array([[0, 0], [plate.shape[1], 0], [plate.shape[1], height_px], [0, height_px]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    size = picture.shape[1::-1]
    alpha = cv2.warpPerspective(np.ones(plate.shape[:2], np.float32), matrix, size)[..., None]
    mixed = picture * (1 - alpha) + cv2.warpPerspective(plate, matrix, size) * alpha * rng.uniform(0.6, 1.0)
    return _filmed(mixed, height_px, rng), corners


def _corners(plate: UInt8, rng: np.random.Generator) -> np.ndarray:
    """The plate's corners around 0 when it is turned sideways by up to 40° and tilted by up to 8°."""
    height, width = plate.shape[:2]
    yaw, tilt = np.radians(rng.uniform(-40, 40)), np.radians(rng.uniform(-8, 8))
    x = np.array([-1, 1, 1, -1]) * width / 2
    y = np.array([-1, -1, 1, 1]) * height / 2
    depth = 1 + x * np.sin(yaw) / (8 * width)
    points = np.stack([x * np.cos(yaw), y], axis=1) / depth[:, None]
    return points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])


def _filmed(picture: np.ndarray, height_px: int, rng: np.random.Generator) -> UInt8:
    """Out of focus by up to a twelfth of the plate's height, darker or lighter, with noise, through JPEG."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.3, 0.3 + height_px / 12))
    noisy = blurred * rng.uniform(0.5, 1.1) + rng.normal(0, rng.uniform(1, 8), picture.shape)
    coded = cv2.imencode(
        ".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, rng.integers(60, 95)]
    )
    return cv2.imdecode(coded[1], cv2.IMREAD_COLOR)


@dataclass(frozen=True)
class Outcome:
    """What became of one drawn plate: whether its vehicle was found, whether it went, and the vehicle's share."""

    scene: str
    layout: str
    height_px: int
    has_vehicle: bool
    is_found: bool
    share: float


def measure_plates(scenes: list[Scene], num_each: int, seed: int) -> dict[str, list[Outcome]]:
    """The outcomes of each mode, on the same pictures."""
    config = plates.PlateConfig()
    find_vehicles = plates.Vehicles(config)
    vehicles: list[plates.Vehicle] = []  # found once for both
    finders = {
        "auto": plates.PlateLikeParts(lambda picture: vehicles, config),
        "region": plates.LowerParts(lambda picture: vehicles, config),
    }
    outcomes: dict[str, list[Outcome]] = {mode: [] for mode in finders}
    rng = np.random.default_rng(seed)
    for scene, height_px, _ in product(scenes, PLATE_HEIGHTS_PX, range(num_each)):
        for layout in scene.layouts:
            picture, corners = stage_picture(scene, layout, height_px, rng)
            plate, bodies = np.zeros((2, *picture.shape[:2]), np.uint8)
            cv2.fillConvexPoly(plate, corners.round().astype(np.int32), 1)
            vehicles[:] = find_vehicles(picture)
            for vehicle in vehicles:
                vehicle.of(bodies)[:] = 1
            for mode, finder in finders.items():
                blurred = blurred_mask(finder(picture), picture)
                in_vehicle, in_blurred = ((mask & plate).sum() / plate.sum() for mask in (bodies, blurred))
                share = blurred.sum() / max(1, bodies.sum())
                found = in_vehicle >= FOUND_FRAC, in_blurred >= FOUND_FRAC
                outcomes[mode].append(Outcome(scene.name, layout.name, height_px, *found, share))
    return outcomes


def blurred_mask(patches: list[plates.Patch], picture: UInt8) -> UInt8:
    """(H, W), 1 where the picture would be blurred."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    for patch in patches:
        height, width = patch.mask.shape
        mask[patch.top : patch.top + height, patch.left : patch.left + width] |= patch.mask.astype(np.uint8)
    return mask


def print_table(what: str, outcomes: list[Outcome]) -> None:
    print(f"\n{what:<16}{'plates':>8}{'vehicle found':>15}{'plate blurred':>15}{'of the vehicle':>16}")
    large = [o for o in outcomes if o.height_px >= 12]
    rows = [(f"{height} px", [o for o in outcomes if o.height_px == height]) for height in PLATE_HEIGHTS_PX]
    rows.append(("from 12 px", large))
    rows += [(name, [o for o in large if o.scene == name]) for name in dict.fromkeys(o.scene for o in large)]
    rows += [(name, [o for o in large if o.layout == name]) for name in dict.fromkeys(o.layout for o in large)]
    for name, those in rows:
        vehicle, plate = (np.mean([getattr(o, field) for o in those]) for field in ("has_vehicle", "is_found"))
        share = np.mean([o.share for o in those if o.has_vehicle]) if vehicle else 0.0
        print(f"{name:<18}{len(those):>6}{vehicle:>15.1%}{plate:>15.1%}{share:>16.1%}")


def measure_cost(num_frames: int, rounds: int) -> None:
    """Wall and CPU seconds of whole commands on a piece of the street video, the best of interleaved rounds."""
    stage = [sys.executable, str(REPO_DIR / "gdpr_blur_faces.py")]
    with tempfile.TemporaryDirectory() as folder:
        path, output_dir = Path(folder) / "street.mp4", Path(folder) / "out"
        images = islice((image for batch in read_frames(STREET) for image in batch.images), num_frames)
        with VideoWriter(path, frame_hw=(576, 768), fps=10) as writer:
            for image in images:
                writer.write(image)
        commands = {
            "deface": [str(Path(sys.executable).with_name("deface")), str(path), "-o", str(Path(folder) / "bare.mp4")],
            **{
                f"--plates {mode}": [*stage, str(path), "--output_dir", str(output_dir), "--plates", mode]
                for mode in plates.MODES
            },
        }
        best_s = {name: np.full(2, np.inf) for name in commands}
        for number in range(1, rounds + 1):
            for name, command in commands.items():
                shutil.rmtree(output_dir, ignore_errors=True)
                begin_s = _wall_and_cpu_s()
                subprocess.run(command, check=True, capture_output=True)
                best_s[name] = np.minimum(best_s[name], _wall_and_cpu_s() - begin_s)
            what = f"({num_frames} frames of 768x576, the best of {number})"
            print(f"\n{'command':<18}{'s':>8}{'CPU s':>8}{'times deface':>14}{'in CPU':>8}   {what}")
            for name, seconds in best_s.items():
                times = seconds / best_s["deface"]
                print(f"{name:<18}{seconds[0]:>8.1f}{seconds[1]:>8.1f}{times[0]:>14.2f}{times[1]:>8.2f}", flush=True)


def _wall_and_cpu_s() -> np.ndarray:
    """Seconds on the clock, and those that finished commands have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.monotonic(), used.ru_utime + used.ru_stime])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_each", type=int, default=1, help="pictures of each vehicle, layout and height")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_frames", type=int, default=30, help="length of the video that the cost is measured on")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command, of which the best counts")
    parser.add_argument("--only", choices=["plates", "cost"], help="measure one of the two")
    args = parser.parse_args()
    if args.only != "cost":
        for what, scenes in (("known", known_scenes()), ("held out", held_out_scenes())):
            for mode, outcomes in measure_plates(scenes, args.num_each, args.seed).items():
                print_table(f"{mode}, {what}", outcomes)
    if args.only != "plates":
        measure_cost(args.num_frames, args.rounds)


if __name__ == "__main__":
    main()

"""Pictures out of Debian packages: which are photographs, which are drawn, and under which licence.

Every package is read as it is published, without being installed; nothing of it is kept but a few numbers.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

PICTURES = re.compile(r"\.(jpe?g|png|webp)$")
LONG_SIDE = 960  # px; larger pictures are made smaller: twice a frame's long side, so that a half of one is still sharp
MIN_PICTURE_WH = (320, 240)  # px; smaller photographs and backgrounds would only show what enlarging does
MOST_PIXELS = 50_000_000  # clip art may be drawn for posters
Image.MAX_IMAGE_PIXELS = None  # we look at the size before anything is unpacked
MIN_FIGURE = 60  # px, the short side of what is pasted onto a background
Picture = np.ndarray  # (H, W, 3) uint8 RGB, or (H, W, 4) with how opaque it is


@dataclass(frozen=True)
class Package:
    """Where a package has photographs and drawings: what the paths match. `licence`: of these, as the package says."""

    name: str
    licence: str
    photos: str | None = None
    drawings: str | None = None


# What is neither (renderings, textures, abstract art, screenshots, space) and what would not be told from the other
# (paintings, scientific illustrations) is left out by name.
PACKAGES = (
    Package(
        "gcompris-qt-data",
        "public domain, CC-BY-2.0, CC-BY-SA-2.0/2.5/3.0/4.0, GPL-3+, by file",
        photos=r"/(erase|explore_world_animals|explore_farm_animals|explore_monuments)/resource/"
        r"|/clickgame/resource/sea|/categorization/resource/images/(monuments|renewable|tools|others)/"
        r"|/details/resource/image/(?!.*(Gogh|Eglise|Tanguy)).*_background",
        drawings=r"/lang/resource/words_sample/",
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0",
        photos=r"/backgrounds/(?!umang|analogpattern)",
    ),
    Package(
        "lxqt-themes",
        "CC-BY-SA-3.0, LGPL-2.1+",
        photos=r"/wallpapers/(Butterfly|Valendas|after|apple|beam|butter|cloud|drop|flowers|fog)",
    ),
    Package("mate-backgrounds", "GPL-2+", photos=r"/mate/nature/(?!Aqua|Wood)"),
    Package("palapeli-data", "GPL-2+", photos=r"/palapeli/collection/"),
    Package(
        "plasma-workspace-wallpapers",
        "GPL-2+",
        photos=r"/(BytheWater|ColdRipple|ColorfulCups|DarkestHour|EveningGlow|FallenLeaf|Grey|Kite|OneStandsOut|Path"
        r"|summer_1am)/contents/images/(?!1080x)\d{4}x",
        drawings=r"/(Altai|FlyingKonqui|IceCold|Kay|Patak|SafeLanding)/contents/images/(?!1080x)\d{4}x",
    ),
    Package("tuxtype-data", "GPL-2+, public domain", photos=r"/images/kcas\d"),
    Package(
        "tuxpaint-data",
        "GPL-2+",
        photos=r"/tuxpaint/templates/",
        drawings=r"/tuxpaint/starters/(?!reef|palm|silhouette|.*-back)",
    ),
    Package(
        "openclipart-png",
        "public domain (CC0)",
        drawings=r"/png/(animals|buildings|food|people|plants|recreation|tools|transportation)/",
    ),
    Package("supertux-data", "GPL-3+", drawings=r"/images/(background|creatures|objects|tiles)/"),
    Package("hedgewars-data", "GPL-2, GFDL-1.3", drawings=r"/Data/(Themes|Forts|Graphics)/"),
    Package("warmux-data", "GPL-2+", drawings=r"/warmux/(map|game|gfx)"),
    Package("frozen-bubble-data", "GPL-2", drawings=r"/gfx/"),
)


@dataclass
class Pictures:
    """The pictures of one package: photographs, drawn backgrounds that fill a frame, and figures to paste onto them."""

    package: Package
    version: str
    photos: list[Picture] = field(default_factory=list)
    backgrounds: list[Picture] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)


def read_package(deb_path: Path, package: Package, most: int, rng: np.random.Generator) -> Pictures:
    """The pictures of a .deb file, at most `most` of a kind. Raises OSError or ValueError if it can't be read."""
    pictures = Pictures(package, _run("dpkg-deb", "--field", str(deb_path), "Version").decode().strip())
    found = _files(deb_path)
    photo_paths, drawn_paths = (_matching(found, pattern) for pattern in (package.photos, package.drawings))
    for path in [*rng.permutation(photo_paths)[:most], *rng.permutation(drawn_paths)[: 2 * most]]:
        image = _decode(found[path])
        if image is None:
            continue
        is_photo = path in photo_paths
        is_large = image.shape[1] >= MIN_PICTURE_WH[0] and image.shape[0] >= MIN_PICTURE_WH[1]
        if is_photo and is_large and image.shape[2] == 3:
            pictures.photos.append(image)
        elif not is_photo and is_large and image.shape[2] == 3:
            pictures.backgrounds.append(image)
        elif not is_photo and image.shape[2] == 4 and min(image.shape[:2]) >= MIN_FIGURE:
            pictures.figures.append(image)
    del pictures.backgrounds[most:], pictures.figures[most:]
    return pictures


def _matching(paths: Iterable[str], pattern: str | None) -> list[str]:
    return sorted(path for path in paths if pattern and re.search(pattern, path))


def _run(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def _files(deb_path: Path) -> dict[str, bytes]:
    """The pictures in a .deb file, path: content, those within Qt's resource files too."""
    found: dict[str, bytes] = {}
    archive = _run("dpkg-deb", "--fsys-tarfile", str(deb_path))
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            file = files.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if PICTURES.search(member.name):
                found[member.name] = file.read()
            elif member.name.endswith(".rcc"):
                found |= _qt_resources(file.read())
    return found


def _qt_resources(data: bytes) -> dict[str, bytes]:
    """The pictures in a Qt resource file: a tree of names, and blobs that may be packed with zlib."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    version, tree, blobs, names = struct.unpack(">4I", data[4:20])
    node_size = 14 if version < 2 else 22
    found: dict[str, bytes] = {}

    def visit(node: int, folder: PurePosixPath) -> None:
        at = tree + node * node_size
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        length = struct.unpack(">H", data[names + name_at : names + name_at + 2])[0] if node else 0
        text = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        path = folder / text
        if flags & 2:  # a folder: how many nodes are in it, and the first
            count, first = struct.unpack(">2I", data[at + 6 : at + 14])
            for child in range(first, first + count):
                visit(child, path)
        elif PICTURES.search(text):
            blob_at = blobs + struct.unpack(">I", data[at + 10 : at + 14])[0]
            size = struct.unpack(">I", data[blob_at : blob_at + 4])[0]
            blob = data[blob_at + 4 : blob_at + 4 + size]
            found[str(path)] = zlib.decompress(blob[4:]) if flags & 1 else blob

    visit(0, PurePosixPath("/"))
    return found


def _decode(content: bytes) -> Picture | None:
    """The picture, at most LONG_SIDE large; with its opacity if more than a hundredth of it can be seen through."""
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MOST_PIXELS:
            return None
        image.draft("RGB", (LONG_SIDE, LONG_SIDE))
        image = image.convert("RGBA")
    except OSError:  # Pillow's word for a damaged file; packages hold some, to test programs with
        return None
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels if (pixels[..., 3] < 250).mean() > 0.01 else pixels[..., :3]

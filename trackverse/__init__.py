"""Turn web video into datasets of object tracks: the library that the six scripts share."""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "1.0.0"

# What requirements.txt brings, by the names of its modules.
NEEDED = (
    *("av", "cv2", "imageio_ffmpeg", "isal", "numpy", "onnxruntime", "pyarrow", "scenedetect", "scipy", "simdjson"),
    *("skimage", "submitit", "tqdm", "yt_dlp"),
)

# All commands come in by this door, before any import that could fail. One that was started with another Python than
# the one of .venv ends here, in a line that says so; who only uses the library may have less.
if sys.argv[0] == "-m" or Path(__file__).resolve().parent.parent in Path(sys.argv[0]).resolve().parents:
    missing = ["Python 3.11"] * (sys.version_info < (3, 11)) + [name for name in NEEDED if find_spec(name) is None]
    if missing:
        told = f"{sys.executable} lacks {', '.join(missing)}: run make setup, then source .venv/bin/activate"
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)

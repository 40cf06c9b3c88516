"""What the messages of sites and of yt-dlp mean, which has no error codes.

They are sorted by their text into four classes: *blocked* (the site refuses us, not the video: StopWorkError), *set-up*
(SetupError), *transient* (ItemError that the next run tries again) and *final* (ItemError that only `--retry_failed`
tries again: removed, private, DRM, geo-blocked, ...).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from trackverse.errors import ItemError, SetupError, StopWorkError, TrackverseError

INSTALL_HINT = "pip install -U 'yt-dlp[default]' deno"
MAX_SUSPECT_IN_A_ROW = 10
TRANSIENT = "transient"
FORBIDDEN, NO_FORMATS, EXTRACTOR_FAILED = "forbidden (403)", "no formats", "extractor failed"
# One such failure may be the video's; several in a row are ours: an old yt-dlp, a missing token, a blocked address.
SUSPECT_REASONS = frozenset({FORBIDDEN, NO_FORMATS, EXTRACTOR_FAILED})


def _texts(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# "Video unavailable. This content isn't available, try again later" is about us, so these are looked at first.
BLOCKED = _texts("rate-limited|try again later|not a bot|captcha challenge|likely being blocked|HTTP Error 429")
SETUP = _texts(
    "n challenge solving failed|No supported JavaScript runtime|cookies are no longer valid|failed to load cookies"
    "|No space left on device|Disk quota exceeded|Read-only file system|ffmpeg is not installed"
)
# (reason, whether the next run tries again unasked, texts), in the order in which they are looked at.
REASONS = (
    (NO_FORMATS, True, _texts("No video formats found|Requested format is not available|Only images are available")),
    (FORBIDDEN, True, _texts("HTTP Error 403")),
    ("not found (404)", False, _texts("HTTP Error 404")),
    ("gone (410)", False, _texts("HTTP Error 410")),
    (TRANSIENT, True, _texts("HTTP Error (5..|408|425)|timed out|timeout|connection (refused|reset|aborted)")),
    (TRANSIENT, True, _texts("Giving up after|IncompleteRead|more expected|content too short|any data blocks")),
    (TRANSIENT, True, _texts("name resolution|network is unreachable|unable to continue")),
    ("geo-blocked", False, _texts("HTTP Error 451|(in|from) your (country|region|location)|geo.?restrict")),
    ("age-restricted", False, _texts("confirm your age|age.restricted|inappropriate for some users")),
    ("members only", False, _texts("members.only|members on level|channel's members|join this channel")),
    ("private", False, _texts("private video|video is private|granted access")),
    ("upcoming", False, _texts("premieres |will begin|not yet available|upcoming|not currently live")),
    ("DRM", False, _texts(r"\bDRM\b")),
    ("removed", False, _texts("removed|terminated|deleted|unavailable|no longer available|n[o'’]t available")),
    ("login required", False, _texts("HTTP Error 401|sign in|log ?in|registered users|authenticat")),
    ("no video there", False, _texts("unsupported url")),
    ("refused by the site", False, _texts("HTTP Error 4..")),
)


def translate(text: str, line: str, warnings: Sequence[str]) -> TrackverseError | None:
    """The error for a message, None if its text says nothing.

    `text` is looked at, `line` is what the user reads of it. `warnings` came before: some say why it failed.
    """
    if BLOCKED.search(text):
        return StopWorkError(f"the site refuses more for now ({line}): wait an hour, then go on with a longer --sleep")
    if said := next((message for message in (text, *warnings) if SETUP.search(message)), None):
        return SetupError(f"yt-dlp can't work: {said} (for the newest: {INSTALL_HINT})")
    for reason, retry, texts in REASONS:
        if texts.search(text):
            return ItemError(line, reason=reason, retry=retry)
    return None


class SuspectStreak:
    """Stops the worker when videos in a row fail for reasons that are rather about us than about them."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around one attempt. Raises StopWorkError instead of the attempt after `MAX_SUSPECT_IN_A_ROW`."""
        if len(self._reasons) >= MAX_SUSPECT_IN_A_ROW:
            said = ", ".join(sorted(set(self._reasons)))
            raise StopWorkError(
                f"{len(self._reasons)} videos in a row failed ({said}), so the fault is hardly theirs: update yt-dlp "
                f"({INSTALL_HINT}), wait an hour, or give --cookies or --proxy; if it is theirs, take them off the list"
            )
        try:
            yield
        except ItemError as error:
            self._reasons = [*self._reasons, error.reason] if error.reason in SUSPECT_REASONS else []
            raise
        self._reasons = []

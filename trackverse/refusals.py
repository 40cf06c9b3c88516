"""What the messages of sites and of yt-dlp mean, which has no error codes.

They are sorted by their text into five classes: *blocked* (the site refuses us, not the video: StopWorkError), *set-up*
(SetupError), and three of ItemError: *transient* (the next run tries again), *conditional* (somebody else, somewhere
else or later might get it: geo-blocked, members only, ...) and *permanent* (removed, private, DRM, ...), of which the
last two are tried again only by `--retry_failed`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from trackverse.errors import ItemError, SetupError, StopWorkError, TrackverseError

INSTALL_HINT = "pip install -U 'yt-dlp[default]' deno"
MAX_SUSPECT_IN_A_ROW = 10
PERMANENT, CONDITIONAL, TRANSIENT = "permanent", "conditional", "transient"
BROKEN_CONNECTION, SERVER_ERROR = "broken connection", "server error (5xx)"
RANGE_REFUSED = "range refused (416)"
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
# (reason, class, texts), in the order in which they are looked at.
REASONS = (
    (NO_FORMATS, TRANSIENT, _texts("No video formats|Requested format is not available|Only images are available")),
    (FORBIDDEN, TRANSIENT, _texts("HTTP Error 403")),
    ("not found (404)", PERMANENT, _texts("HTTP Error 404")),
    ("gone (410)", PERMANENT, _texts("HTTP Error 410")),
    (RANGE_REFUSED, TRANSIENT, _texts("HTTP Error 416")),
    (SERVER_ERROR, TRANSIENT, _texts("HTTP Error 5..")),
    (BROKEN_CONNECTION, TRANSIENT, _texts("HTTP Error (408|425)|timed out|timeout|connection (refused|reset|aborted)")),
    (BROKEN_CONNECTION, TRANSIENT, _texts("Giving up after|IncompleteRead|more expected|content too short")),
    (BROKEN_CONNECTION, TRANSIENT, _texts("any data blocks|name resolution|network is unreachable|unable to continue")),
    ("geo-blocked", CONDITIONAL, _texts("HTTP Error 451|(in|from) your (country|region|location)|geo.?restrict")),
    ("age-restricted", CONDITIONAL, _texts("confirm your age|age.restricted|inappropriate for some users")),
    ("members only", CONDITIONAL, _texts("members.only|members on level|channel's members|join this channel")),
    ("private", PERMANENT, _texts("private video|video is private|granted access")),
    ("upcoming", CONDITIONAL, _texts("premieres |will begin|not yet available|upcoming|not currently live")),
    ("DRM", PERMANENT, _texts(r"\bDRM\b")),
    ("removed", PERMANENT, _texts("removed|terminated|deleted|unavailable|no longer available|n[o'’]t available")),
    ("login required", CONDITIONAL, _texts("HTTP Error 401|sign in|log ?in|registered users|authenticat")),
    ("no video there", PERMANENT, _texts("unsupported url")),
    ("refused by the site", PERMANENT, _texts("HTTP Error 4..")),
)


def failure(message: str, reason: str, kind: str) -> ItemError:
    """The error for a video that can't be had, of the class `PERMANENT`, `CONDITIONAL` or `TRANSIENT`."""
    return ItemError(message, reason=reason, retry=kind == TRANSIENT, kind=kind)


def translate(text: str, line: str, warnings: Sequence[str]) -> TrackverseError | None:
    """The error for a message, None if its text says nothing.

    `text` is looked at, `line` is what the user reads of it. `warnings` came before: some say why it failed.
    """
    if BLOCKED.search(text):
        return StopWorkError(f"the site refuses more for now ({line}): wait an hour, then go on with a longer --sleep")
    if said := next((message for message in (text, *warnings) if SETUP.search(message)), None):
        return SetupError(f"yt-dlp can't work: {said} (for the newest: {INSTALL_HINT})")
    for reason, kind, texts in REASONS:
        if texts.search(text):
            return failure(line, reason, kind)
    return None


class SuspectStreak:
    """Stops the worker when videos in a row fail for reasons that are rather about us than about them."""

    def __init__(self) -> None:
        self._reason_of: dict[str, str] = {}

    @contextlib.contextmanager
    def watch(self, video_id: str) -> Iterator[None]:
        """Around one attempt. Raises StopWorkError instead of the attempt after `MAX_SUSPECT_IN_A_ROW`."""
        if len(self._reason_of) >= MAX_SUSPECT_IN_A_ROW:
            said = ", ".join(sorted(set(self._reason_of.values())))
            raise StopWorkError(
                f"{len(self._reason_of)} videos in a row failed ({said}), so the fault is hardly theirs: update yt-dlp "
                f"({INSTALL_HINT}), wait an hour, or give --cookies or --proxy; if it is theirs, take them off the "
                "list",
                unmark=list(self._reason_of),
            )
        try:
            yield
        except ItemError as error:
            if error.reason in SUSPECT_REASONS:
                self._reason_of[video_id] = error.reason
            else:
                self._reason_of.clear()
            raise
        self._reason_of.clear()

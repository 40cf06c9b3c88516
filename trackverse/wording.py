"""Numbers and what they count, as one says it."""

from __future__ import annotations

import re

# What is counted in our messages. Reasons that begin with something else stay as they are.
_NOUNS = re.compile(
    r"(class|clip|detection|element|group|item|line|page|part|record|row|subset|track|track file|video)(?:es|s)\b"
)


def counted(number: int, what: str) -> str:
    """A number and `what` it counts, given as it is said of many: "2 tracks too short", "1 track too short"."""
    return f"{number} {named(number, what)}"


def named(number: int, what: str) -> str:
    """`what`, given as it is said of many, as it is said of that number."""
    noun = _NOUNS.match(what) if number == 1 else None
    return noun[1] + what[noun.end() :] if noun else what

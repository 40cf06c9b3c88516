"""A subset from beginning to end: which tracks may be chosen, which are, and what is to be told about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from trackverse import constraints, curate, letters
from trackverse.constraints import LOOSER, Apart, Limits
from trackverse.curate import Embeddings, Quota, SpreadConfig
from trackverse.track_table import TrackTable
from trackverse.types import Int64, UInt8

RELAXABLE = ("min_motion", "max_overlap", "min_distance", "min_length", "min_area")
ALL = "all"


@dataclass(frozen=True)
class Plan:
    """How to choose. `per_group`: tracks of each video or class, or of all, as the criterion has it; `cap` in all."""

    criterion: str
    per_group: int
    cap: int | None
    limits: Limits
    relax: bool = False
    motion: str = "box_motion"
    temperature: float = 0.0
    spread: SpreadConfig = field(default_factory=SpreadConfig)

    @property
    def grouped_by(self) -> str:
        """What is to be balanced: "video", "class" or "all"."""
        return {"video_balanced": "video", "class_balanced": "class", "min_redundancy": "class"}.get(
            self.criterion, ALL
        )

    @property
    def is_spread(self) -> bool:
        """Whether it compares embeddings."""
        return self.criterion in ("min_redundancy", "diverse")

    @property
    def needs_embeddings(self) -> bool:
        """Whether tracks without an embedding are of no use."""
        return self.is_spread or self.limits.min_distance is not None


@dataclass
class Choice:
    """The chosen rows, sorted, and why the others were not: `codes` (N,), numbers of `reasons`, by the first, unrelaxed
    round. `unfilled`: [chosen, asked for] of what got fewer; `relaxed`: of each group, to what limits, and how many
    tracks that gave; `pooled`: how many members groups have of which only a part was looked at.
    """

    rows: Int64
    codes: UInt8
    reasons: list[str]
    unfilled: dict[str, list[int]]
    relaxed: dict[str, list[dict[str, Any]]]
    pooled: dict[str, int]


def choose(
    table: TrackTable, plan: Plan, rng: np.random.Generator, embeddings: Callable[[], Embeddings] | None = None
) -> Choice:
    """The choice that a plan leads to. `embeddings` is called if they are needed."""
    stored = embeddings() if embeddings and plan.needs_embeddings else None
    groups, names = _groups(table, plan.grouped_by)
    quota = Quota(plan.per_group, plan.cap)
    rows = np.zeros(0, np.int64)
    first: constraints.Refusals | None = None
    relaxed: dict[str, list[dict[str, Any]]] = {}
    pooled: dict[int, int] = {}
    steps = len(LOOSER) if plan.relax and plan.limits.can_relax() else 1
    for step in range(steps):
        limits = plan.limits.relaxed(step)
        refused = constraints.refusals(table, limits, motion=plan.motion)
        before = quota.given.copy()
        found, apart, pools = _round(table, plan, limits, refused.codes, groups, quota, rows, rng, stored)
        rows = np.concatenate([rows, found])
        pooled = pools | pooled
        if first is None:
            first = _with(refused, apart, table, plan)
        for group, number in sorted((quota.given - before).items()) if step else ():
            given = {name: getattr(limits, name) for name in RELAXABLE if getattr(plan.limits, name) is not None}
            relaxed.setdefault(names[group], []).append({**given, "chosen": number})
    assert first is not None
    counts = {name: quota.given[group] for group, name in names.items()}
    return Choice(
        np.sort(rows),
        first.codes,
        first.reasons,
        curate.unfilled(counts, plan.per_group),
        relaxed,
        {names[group]: number for group, number in pooled.items()},
    )


def _groups(table: TrackTable, grouped_by: str) -> tuple[Int64, dict[int, str]]:
    """The group (N,) of every track, and the names of all groups."""
    if grouped_by == "video":
        return table.videos, dict(enumerate(table.video_ids))
    if grouped_by == "class":
        return table["label_id"], {int(number): label for number, label in sorted(table.labels.items())}
    return np.zeros(len(table), np.int64), {0: ALL}


def _round(
    table: TrackTable,
    plan: Plan,
    limits: Limits,
    codes: UInt8,
    groups: Int64,
    quota: Quota,
    chosen: Int64,
    rng: np.random.Generator,
    embeddings: Embeddings | None,
) -> tuple[Int64, Apart | None, dict[int, int]]:
    """More rows under some limits, besides those that are chosen already."""
    candidates = np.flatnonzero(codes == 0)
    candidates = candidates[~np.isin(candidates, chosen)] if len(chosen) else candidates
    apart = None
    # Of tracks that k-centre chooses, the distance is kept without this.
    if limits.max_overlap is not None or (limits.min_distance is not None and not plan.is_spread):
        apart = Apart(table, limits, embeddings)
        apart.prepare(chosen)
        for row in chosen.tolist():
            apart.took(row)
    if plan.is_spread:
        assert embeddings is not None
        given = {int(group): chosen[groups[chosen] == group] for group in np.unique(groups[chosen])}
        config = SpreadConfig(
            plan.spread.max_swaps, plan.spread.batch_size, plan.spread.pool, limits.min_distance or 0.0
        )
        rows, pooled = curate.pick_spread(
            candidates, groups[candidates], quota, config, embeddings, rng, given=given, conflicts=apart
        )
        return rows, apart, pooled
    if plan.criterion == "class_balanced":
        order = curate.by_score(candidates, table["score"][candidates], plan.temperature, rng)
    elif plan.criterion == "max_motion":
        order = curate.by_value(candidates, table[plan.motion][candidates])
    else:
        order = curate.by_chance(candidates, rng)
    return curate.take(order, groups[order], quota, apart), apart, {}


def _with(refused: constraints.Refusals, apart: Apart | None, table: TrackTable, plan: Plan) -> constraints.Refusals:
    """The refusals, with those of tracks that could not be chosen beside others, and of those without a value."""
    codes, reasons = refused.codes.copy(), list(refused.reasons)
    if plan.criterion == "class_balanced" and plan.temperature < np.inf:
        reasons.append("no score")
        codes[(codes == 0) & np.isnan(table["score"])] = len(reasons) - 1
    if plan.criterion == "max_motion":
        reasons.append("motion not known")
        codes[(codes == 0) & np.isnan(table[plan.motion])] = len(reasons) - 1
    refused_beside = apart.refused if apart else {}
    for reason in dict.fromkeys(refused_beside.values()):
        reasons.append(reason)
        codes[[row for row, why in refused_beside.items() if why == reason]] = len(reasons) - 1
    return constraints.Refusals(codes, reasons)


def by_class_and_reason(table: TrackTable, choice: Choice) -> dict[str, dict[str, int]]:
    """Of every class how many tracks there are, how many are chosen, and why how many others are not."""
    codes = choice.codes.copy()
    codes[choice.rows] = 0
    is_chosen = np.zeros(len(table), bool)
    is_chosen[choice.rows] = True
    names = ["chosen", "not needed", *choice.reasons[1:]]
    outcome = np.where(is_chosen, 0, codes.astype(np.int64) + 1)
    label_ids, places = np.unique(table["label_id"], return_inverse=True)
    counts = np.bincount(places * len(names) + outcome, minlength=len(label_ids) * len(names)).reshape(-1, len(names))
    told: dict[str, Counter[str]] = {}
    for label_id, row in zip(label_ids.tolist(), counts.tolist(), strict=True):
        label = told.setdefault(table.labels[label_id], Counter())
        label["tracks"] += sum(row)
        label.update({name: number for name, number in zip(names, row, strict=True) if number or name == "chosen"})
    return {label: dict(told[label]) for label in sorted(told, key=lambda label: (-told[label]["chosen"], label))}


def short_of(choice: Choice, cap: int | None) -> str:
    """What got fewer tracks than were asked for, in a line; nothing if that is due to the cap alone."""
    if not choice.unfilled or len(choice.rows) == cap:
        return ""
    first = [f"{name} {got} of {asked}" for name, (got, asked) in islice(choice.unfilled.items(), 5)]
    more = f" and {len(choice.unfilled) - 5} more" if len(choice.unfilled) > 5 else ""
    return f"fewer than asked for: {', '.join(first)}{more}"


def as_text(by_class: dict[str, dict[str, int]]) -> list[str]:
    """A table: a line a class, a column a reason."""
    names = list(dict.fromkeys(name for counts in by_class.values() for name in counts))
    names.sort(key=lambda name: ("tracks", "chosen").index(name) if name in ("tracks", "chosen") else 2)
    width = max(map(letters.width, ["class", *by_class]))
    lines = [letters.padded("class", width) + "".join(f"  {name}" for name in names)]
    for label, counts in by_class.items():
        lines.append(letters.padded(label, width) + "".join(f"  {counts.get(name, 0):>{len(name)}}" for name in names))
    return lines


def report(table: TrackTable, choice: Choice, by_class: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What the sidecar says of a choice."""
    told: dict[str, Any] = {"num_tracks": len(table), "num_chosen": len(choice.rows), "classes": by_class}
    return told | {"unfilled": choice.unfilled, "relaxed": choice.relaxed, "pooled": choice.pooled}

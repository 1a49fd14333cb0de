"""Fair timing on a machine that others use too: variants in turns, and the best turn of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

NOISE = 0.03  # a way timed against itself, eleven times on a busy machine: ratios from 0.972 to 1.014


def clocked(function: Callable, *args, **kwargs) -> tuple[float, object]:
    """Seconds that `function(*args, **kwargs)` took, and what it returned."""
    started = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - started, result


def interleaved(ways: dict[str, Callable[[], tuple[float, object]]], rounds: int) -> tuple[dict, dict]:
    """Each way's best seconds, and its result, over `rounds` of A B C, A B C, ...

    A neighbour's work can only add time, so the minimum is nearest to what the code costs; turns spread a slow minute of the
    machine over all ways alike. A way prepares what it needs and returns (seconds, result), so it says itself what it times.
    """
    best, results = {}, {}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, results[name] = way()
            best[name] = min(seconds, best.get(name, seconds))
    return best, results


@dataclass(frozen=True)
class Line:
    """One line of the table: a task, ours, and one other way of doing it, both in rows per second."""

    task: str
    ours: float
    other_name: str
    other: float
    goal: float | None = None  # ours / other that was asked for; None: the line is for information

    @property
    def ratio(self) -> float:
        return self.ours / self.other


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table, ready for README.md.

    >>> print(table([Line("count to ten", 80.0, "on fingers", 16.0, goal=4)]))
    | task | ours, rows/s | against | its rows/s | ratio | goal | met |
    |---|---:|---|---:|---:|---:|---|
    | count to ten | 80 | on fingers | 16.0 | 5.00 | 4 | yes |
    """
    head = ["| task | ours, rows/s | against | its rows/s | ratio | goal | met |", "|---|---:|---|---:|---:|---:|---|"]
    return "\n".join(head + [_row(line) for line in lines])


def _row(line: Line) -> str:
    goal = "" if line.goal is None else f"{line.goal:g}"
    cells = [line.task, _rate(line.ours), line.other_name, _rate(line.other), f"{line.ratio:.2f}", goal, _met(line)]
    return f"| {' | '.join(cells)} |"


def _met(line: Line) -> str:
    """Whether the ratio reaches the goal; "even" where it misses it by less than two runs of one way differ."""
    if line.goal is None:
        return ""
    return "yes" if line.ratio >= line.goal else "even" if line.ratio >= line.goal * (1 - NOISE) else "no"


def _rate(rows_per_second: float) -> str:
    """Three figures at most; more would be noise."""
    return f"{rows_per_second:,.0f}" if rows_per_second >= 50 else f"{rows_per_second:.1f}"

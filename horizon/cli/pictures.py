"""Pictures of simulated traces and logs, by matplotlib: imported only when there are pictures to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib import dates as untyped_dates
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from horizon.service.outcomes import Measures, SizeClass, by_size, percentile, timeline
from horizon.service.simulator import Simulation

dates: Any = untyped_dates

SPANS: Final = 400
"""Points of a line over time."""
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by everybody (Okabe and Ito)."""

_HEAD_INCHES: Final = 0.62
"""For the title and what stands below it."""
_LINEAR_S: Final = 60
"""Waits below this are drawn linearly, down to 0, and those above by their logarithm."""
_TICKS: Final = (
    (0, "0"),
    (60, "1 min"),
    (600, "10 min"),
    (3_600, "1 h"),
    (6 * 3_600, "6 h"),
    (86_400, "1 day"),
    (7 * 86_400, "1 week"),
    (30 * 86_400, "30 days"),
    (182 * 86_400, "half a year"),
    (3 * 365 * 86_400, "3 years"),
)
_STYLE: Final[Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "savefig.dpi": 150,
}


class Drawn(NamedTuple):
    """One simulation to be drawn."""

    label: str
    """Of the policy."""
    simulation: Simulation
    outcome: Measures
    began: datetime | None
    """The first submission, if the trace says when it was."""


def draw_waits(path: Path, one: Drawn, title: str) -> None:
    """How long jobs waited, by their size."""
    with _figure(path, 7.5, 4.6, f"How long jobs waited, by size\n{title}") as figure:
        axes = figure.add_subplot()
        classes = by_size(one.simulation.ran)
        _draw_classes(axes, classes)
        axes.set_xticks(
            range(len(classes)),
            [f"{size.label}\n{len(size.waits_s):,} job{'s'[: len(size.waits_s) > 1]}" for size in classes],
        )
        axes.set_xlabel("GPUs asked for")
        axes.grid(axis="x", visible=False)
        axes.set_ylim(bottom=-4)
        _waits_along(axes.yaxis, axes.set_yscale, max(size.waits_s[-1] for size in classes))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def _draw_classes(axes: Axes, classes: list[SizeClass]) -> None:
    at = range(len(classes))
    points = {
        percent: [percentile(size.waits_s, percent) for size in classes] for percent in (5, 25, 50, 75, 95)
    }
    means = [sum(size.waits_s) / len(size.waits_s) for size in classes]
    axes.vlines(at, points[5], points[95], color=COLOURS[0], lw=1.5, alpha=0.6, label="5 % to 95 % of them")
    axes.vlines(at, points[25], points[75], color=COLOURS[0], lw=11, alpha=0.55, label="the middle half")
    axes.scatter(
        at, points[50], color="white", edgecolor=COLOURS[0], s=42, zorder=3, clip_on=False, label="median"
    )
    axes.scatter(at, means, color=COLOURS[1], marker="D", s=20, zorder=3, label="mean")


def draw_timeline(path: Path, one: Drawn, title: str, gpus_total: int) -> None:
    """How full the cluster was and how many waited, over time."""
    with _figure(path, 9.5, 6.2, f"Utilisation and queue over time\n{title}") as figure:
        used, jobs, gpus = figure.subplots(3, sharex=True)
        line = timeline(one.simulation, SPANS)
        at = _moments(one, line.span_s, len(line.busy))
        share = [100 * busy / gpus_total for busy in line.busy]
        used.fill_between(at, share, step="mid", color=COLOURS[0], alpha=0.75, lw=0)
        used.axhline(100 * one.outcome.utilisation, color=COLOURS[1], lw=1)
        used.set_ylim(0, 102)
        used.set_title(f"GPUs in use, %  (on the whole {one.outcome.utilisation:.1%})")
        jobs.fill_between(at, line.waiting_jobs, step="mid", color=COLOURS[2], alpha=0.75, lw=0)
        jobs.set_title("jobs waiting")
        gpus.fill_between(at, line.waiting_gpus, step="mid", color=COLOURS[4], alpha=0.8, lw=0)
        gpus.axhline(gpus_total, color="#555555", lw=1, ls=":")
        gpus.set_title(f"GPUs that they ask for  (dotted: the {gpus_total:,} there are)")
        for axes in (jobs, gpus):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        used.set_xlim(at[0], at[-1])
        _time_along(gpus, one)


def draw_comparison(path: Path, drawn: Sequence[Drawn], title: str) -> None:
    """Policies side by side: their numbers, how waits are spread, and their queues over time."""
    height = 0.5 + 0.3 * len(drawn)
    with _figure(path, 11, height + 5, f"Policies compared\n{title}") as figure:
        grid = figure.add_gridspec(2, 4, height_ratios=(height, 4))
        numbers = (
            ("mean wait", [one.outcome.wait_s.mean for one in drawn], _show_wait),
            ("mean bounded slowdown", [one.outcome.bounded_slowdown.mean for one in drawn], _show_number),
            ("utilisation", [one.outcome.utilisation for one in drawn], "{:.1%}".format),
            ("fairness between users", [one.outcome.fairness.index for one in drawn], "{:.3f}".format),
        )
        for place, (name, values, show) in enumerate(numbers):
            axes = figure.add_subplot(grid[0, place])
            _draw_bars(axes, drawn, values, show, labelled=place == 0)
            axes.set_title(name)
        _draw_spread(figure.add_subplot(grid[1, :2]), drawn)
        _draw_queues(figure.add_subplot(grid[1, 2:]), drawn)


def _draw_bars(
    axes: Axes, drawn: Sequence[Drawn], values: list[float], show: Callable[[float], str], labelled: bool
) -> None:
    places = range(len(drawn))
    axes.barh(places, values, color=[_colour(place) for place in places], height=0.65)
    for place, value in enumerate(values):
        axes.annotate(
            show(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [one.label for one in drawn] if labelled else [""] * len(drawn))
    axes.tick_params(left=False, bottom=False)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlim(0, max(values) * 1.4 or 1)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)


def _draw_spread(axes: Axes, drawn: Sequence[Drawn]) -> None:
    """Which share of the jobs waited at most how long."""
    for place, one in enumerate(drawn):
        waits_s = sorted(ran.wait_s for ran in one.simulation.ran)
        shares = [100 * (rank + 1) / len(waits_s) for rank in range(len(waits_s))]
        axes.step(waits_s, shares, where="post", color=_colour(place), lw=1.6, label=one.label)
    axes.set_title("jobs that waited no longer, %")
    axes.set_ylim(0, 101)
    axes.set_xlim(left=-2)
    _waits_along(axes.xaxis, axes.set_xscale, max(ran.wait_s for one in drawn for ran in one.simulation.ran))
    axes.tick_params(axis="x", rotation=30)
    axes.legend(frameon=False, loc="lower right")


def _draw_queues(axes: Axes, drawn: Sequence[Drawn]) -> None:
    for place, one in enumerate(drawn):
        line = timeline(one.simulation, SPANS // 3)
        at = _moments(one, line.span_s, len(line.busy))
        axes.plot(at, line.waiting_jobs, color=_colour(place), lw=1.2, alpha=0.85)
    axes.set_title("jobs waiting")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.margins(x=0)
    _time_along(axes, drawn[0])


# --- what the pictures share --------------------------------------------------------------------------


@contextmanager
def _figure(path: Path, width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure to be drawn on, then written. Without pyplot: nothing is shown and nothing stays behind."""
    with mpl.rc_context(_STYLE):
        body = ConstrainedLayoutEngine(rect=(0, 0, 0.99, 1 - _HEAD_INCHES / height))
        figure = Figure(figsize=(width, height), layout=body)
        FigureCanvasAgg(figure)
        name, _, more = title.partition("\n")
        left = 0.12 / width
        figure.text(left, 1 - 0.12 / height, name, va="top", fontsize=12, weight="bold")
        figure.text(left, 1 - 0.38 / height, more, va="top", fontsize=8.5, color="#555555")
        yield figure
        figure.savefig(path, metadata={"Software": None})


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _moments(one: Drawn, span_s: int, spans: int) -> list[float]:
    """The middles of the spans: as dates, or in days where the trace does not say when it was."""
    days = [(span + 0.5) * span_s / 86_400 for span in range(spans)]
    if one.began is None:
        return days
    began: float = dates.date2num(one.began)
    return [began + day for day in days]


def _time_along(axes: Axes, one: Drawn) -> None:
    if one.began is None:
        axes.set_xlabel("days from the first submission")
        return
    locator = dates.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))


def _waits_along(axis: Any, set_scale: Callable[..., None], longest_s: float) -> None:
    """Waits along an axis, the long ones closer together, with ticks that have names."""
    set_scale("symlog", linthresh=_LINEAR_S, linscale=0.5)
    names = dict(_TICKS)
    ticks = [at_s for at_s in names if at_s <= longest_s]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda at_s, _: names[int(at_s)]))
    axis.set_minor_locator(NullLocator())


def _thousands(value: float, _: object = None) -> str:
    return f"{value:,.0f}"


def _show_number(value: float) -> str:
    return f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}"


def _show_wait(seconds: float) -> str:
    span = timedelta(seconds=round(seconds))
    if span.days:
        return f"{seconds / 86_400:,.1f} days"
    return f"{seconds / 3_600:.1f} h" if seconds >= 3_600 else f"{seconds / 60:.1f} min"

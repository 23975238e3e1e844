"""The two pictures: signal to exit over the number of tasks, and how late each contender's deadline kills."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "#c0392b"
FLOOR = "#222222"
PEERS = ("#2e86c1", "#28b463", "#af7ac5", "#d68910", "#17a589", "#7f8c8d", "#5d6d7e", "#a04000", "#6c3483")
MARKERS = ("o", "s", "^", "D", "*")
Series = Mapping[str, Sequence[tuple[float, float]]]


def signal_to_exit(series: Series, path: Path) -> None:
    """One line a contender, both axes logarithmic; the name stands at the line's end."""
    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    peers = iter(PEERS)
    ends: list[tuple[float, float, str, str]] = []
    for name, points in series.items():
        floor = name.startswith("floor")
        color = OURS if name == "capbg" else FLOOR if floor else next(peers)
        axes.plot(
            *zip(*points, strict=True),
            color=color,
            marker="o",
            markersize=4,
            linewidth=2.6 if name == "capbg" else 1.4,
            linestyle=":" if name.endswith("interpreter") else "--" if floor else "-",
            zorder=3 if name == "capbg" else 2,
        )
        ends.append((*points[-1], name, color))
    axes.set(xscale="log", yscale="log", xlabel="tasks, each in a process of its own", ylabel="SIGTERM to exit, ms")
    numbers = sorted({number for points in series.values() for number, _ in points})
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.minorticks_off()
    axes.set_xlim(numbers[0] * 0.85, numbers[-1] * 3.2)
    values = [value for points in series.values() for _, value in points]
    ticks = [
        tick for tick in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if min(values) / 2 < tick < max(values) * 2
    ]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    _label_ends(axes, ends)
    axes.set_title("From SIGTERM to the exit, in a 10 MB parent: lower is better", loc="left")
    _finish(figure, axes, path)


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each name behind its line, and move those apart that would lie on one another."""
    last = 0.0
    for x, y, name, color in sorted(ends, key=lambda end: end[1]):
        at = max(y, last * 1.17)
        last = at
        weight = "bold" if name == "capbg" else "normal"
        axes.annotate(
            name,
            (x, y),
            (x * 1.1, at),
            color=color,
            fontsize=9,
            fontweight=weight,
            va="center",
            textcoords="data",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )


def lateness(series: Series, kinds: Sequence[str], path: Path) -> None:
    """One row a contender, one mark a kind of task, on a logarithmic axis; what was never killed is at the right edge.

    The points of a series are (index of the kind, ms after the deadline); infinite: never killed.
    """
    names = list(series)
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(names) + 1.9), layout="constrained")
    never = 20_000.0
    offsets = [(index - (len(kinds) - 1) / 2) * 0.15 for index in range(len(kinds))]
    for index, kind in enumerate(kinds):
        rows, values = [], []
        for row, name in enumerate(names):
            for where, value in series[name]:
                if where == index:
                    rows.append(row + offsets[index])
                    values.append(never if value == float("inf") else max(value, 0.1))
        colors = [OURS if names[round(row)] == "capbg" else PEERS[0] for row in rows]
        axes.scatter(values, rows, s=40, marker=MARKERS[index], c=colors, zorder=3)
        axes.scatter([], [], s=40, marker=MARKERS[index], c=FLOOR, label=kind)
    axes.set(xscale="log", xlim=(0.08, never * 1.6), xlabel="ms after the deadline")
    ticks = [0.1, 1, 10, 100, 1000, never]
    axes.set_xticks(ticks, ["0.1", "1", "10", "100", "1000", "not\nkilled"])
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        if label.get_text() == "capbg":
            label.set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(10, color="#bbbbbb", linewidth=1, zorder=1)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=min(5, len(kinds)), fontsize=9, frameon=False)
    axes.set_title("How late a deadline kills: left is better; the line is 10 ms", loc="left")
    _finish(figure, axes, path)


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)

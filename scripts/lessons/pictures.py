"""What every lesson needs: its folder, its pictures, and how it ends.

A lesson is a script of `# %%` cells, which editors open as a notebook. Without matplotlib it runs all the same, and
says that there are no pictures.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt.files import write_text
from minigrad import manual_seed
from scripts.shared import command_line

GREYS = ("black", "0.45", "0.7")
LINES = ("-", "--", ":", "-.")
DONE = "done.txt"  # in a lesson's folder once it has run to its end: what scripts/lesson.py ticks


class Lesson:
    """One lesson: reads its command line, gives it a folder and the same random numbers every time, prints its title.

    name: of its file, without .py. description: its docstring.
    """

    def __init__(self, name: str, description: str | None):
        title, _, rest = (description or "").strip().partition("\n")
        options = command_line.parser(f"{title}\n{rest}")
        options.add_argument("--out-dir", default=f"runs/lessons/{name}", help="where its pictures go")
        in_notebook = "ipykernel" in sys.modules  # whose own arguments are not ours
        self.out_dir = Path(options.parse_args([] if in_notebook else None).out_dir)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            options.error(f"{self.out_dir} cannot be made a folder for pictures: {error.strerror}")
        np.set_printoptions(precision=3, suppress=True, linewidth=110)
        manual_seed(0)
        use_one_core()
        self.name = name
        print(f"{title}\n{'=' * len(title)}")

    def part(self, title: str) -> None:
        """Say what comes now."""
        print(f"\n--- {title} ---\n")

    def picture(self, name: str, title: str, columns: int = 1, rows: int = 1, size: Any = (7, 4)) -> Any:
        """`with lesson.picture(...) as axes:` see `picture`."""
        return picture(self.out_dir, name, title, columns, rows, size)

    def end(self, text: str) -> None:
        """Say what to try next, and note that the lesson was read to its end."""
        print(f"\nWhat next\n{text.rstrip()}")
        write_text(self.out_dir / DONE, "This lesson has run to its end.\n")


@contextlib.contextmanager
def picture(folder: Path, name: str, title: str, columns: int = 1, rows: int = 1, size: Any = (7, 4)) -> Iterator[Any]:
    """Axes to draw on (a list, if there are several); afterwards the picture is saved as NAME.png in the folder."""
    several = rows * columns > 1
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"(no picture {name}: matplotlib is not installed; pip install matplotlib)")
        yield [_Nothing()] * (rows * columns) if several else _Nothing()
        return
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    yield axes if several else axes[0]
    figure.suptitle(title, x=0.01, ha="left")
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=120)
    print(f"picture: {path.as_posix()}")
    if "ipykernel" in sys.modules:
        from IPython.display import display  # type: ignore[import-not-found]

        display(figure)


def use_one_core() -> None:
    """Multiply on one core: for matrices as small as those of the lessons, sharing the work takes longer than doing it.

    Without threadpoolctl the lessons are slower, where other programs want the cores, too.
    """
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=1, user_api="blas")


class _Nothing:
    """Axes that draw nothing, for where there is no matplotlib."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self


def heatmap(axes: Any, matrix: Any, rows: Sequence[str], columns: Sequence[str], numbers: str = ".2f") -> None:
    """A matrix as shades of grey, dark for large, each cell with its number. numbers: their format; "" for none."""
    matrix = np.asarray(matrix)
    lightest, darkest = min(0.0, float(np.nanmin(matrix))), float(np.nanmax(matrix))
    axes.imshow(matrix, cmap="Greys", aspect="auto", vmin=lightest, vmax=darkest)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    middle = (lightest + darkest) / 2
    for (i, j), value in np.ndenumerate(matrix):
        if numbers and np.isfinite(value):
            axes.text(j, i, format(value, numbers), ha="center", va="center", color="white" if value > middle else "k")


def bars(axes: Any, heights: dict[str, float], unit: str, numbers: str = ".3g", hatches: Sequence[str] = ("",)) -> None:
    """One bar per name, with its height written above it."""
    drawn = axes.bar(list(heights), list(heights.values()), color="0.8", edgecolor="black")
    if not isinstance(axes, _Nothing):
        for bar, hatch in zip(drawn, list(hatches) * len(heights)):
            bar.set_hatch(hatch)
        axes.bar_label(drawn, fmt=lambda height: format(height, numbers), padding=2, fontsize=8)
        axes.margins(y=0.12)
    axes.set(ylabel=unit)

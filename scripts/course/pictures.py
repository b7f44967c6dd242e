"""The tools of every lesson: its folder, its pictures, and figures that take too long to measure each time.

A lesson is a script of `# %%` cells, which editors open as a notebook. Without matplotlib it runs all the same, and
says that there are no pictures.
"""

import contextlib
import dataclasses
import dis
import hashlib
import inspect
import io
import json
import re
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gpt.files import read_json, write_text
from minigrad import manual_seed, use_kernels
from scripts.course.lessons.cells import LESSONS
from scripts.shared import command_line
from scripts.shared.web_page import FOLDER, data_script, escaped, joined, look

LINES = ("-", "--", ":", "-.")
BLUE, ORANGE = "#1d4f91", "#be5416"
# Black and the two colors are the page's: dark mode changes them. Alone, a browser shows the picture on white.
OF_THE_PAGE = {"#000000": "currentColor", BLUE: "rgb(var(--heat, 29 79 145))", ORANGE: "rgb(var(--cold, 190 84 22))"}
STYLE: Any = {"svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False, "font.size": 10.0}
MEASURED = LESSONS / "measured"
WIDGETS = FOLDER / "widgets"


class Lesson:
    """One lesson: reads its command line, and gives it a folder and the same random numbers every time.

    name: of its file, without .py. description: its docstring. Its `seed` is 0 unless the command line says otherwise:
    what a lesson concludes must hold with others, too.
    """

    def __init__(self, name: str, description: str | None):
        options = command_line.parser(description)
        options.add_argument("--out-dir", default=f"runs/lessons/{name}", help="where its pictures go")
        options.add_argument("--measure", action="store_true", help="measure again what takes long (see `measured`)")
        command_line.add_shared(options, "seed", seed=0)
        in_notebook = "ipykernel" in sys.modules  # whose own arguments are not ours
        arguments = options.parse_args([] if in_notebook else None)
        self.out_dir = Path(arguments.out_dir)
        self.measures = arguments.measure
        self.seed = arguments.seed
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            options.error(f"{self.out_dir} cannot be made a folder for pictures ({error.strerror}): choose another")
        np.set_printoptions(precision=3, suppress=True, linewidth=110)
        manual_seed(self.seed)
        use_one_core()
        self.name = name
        self.number = name.partition("_")[0]

    def picture(self, name: str, title: str, columns: int = 1, rows: int = 1, size: Any = (7, 4)) -> Any:
        """Axes to draw on, as in `with lesson.picture(...) as axes:` (see `picture`)."""
        return picture(self.out_dir, name, title, columns, rows, size)

    def widget(self, name: str, data: Any) -> None:
        """A drawing to play with, on the lesson's page and in a notebook: widgets/NAME.js with its data."""
        path = self.out_dir / f"{name}.json"
        write_text(path, json.dumps(data))
        print(f"widget: {path.as_posix()} (on the page: python scripts/lesson.py {self.number} --html)")
        if "ipykernel" in sys.modules:
            from IPython.display import HTML, display

            display(HTML(widget_html(name, data, alone=True)))

    def measured(self, name: str, measure: Callable[[], Any], *helpers: Callable[..., Any]) -> Any:
        """Return the last result of `measure()`, and print how to run it again: for figures that take minutes.

        helpers: functions of the lesson that `measure` calls. The result is anything that JSON can hold, kept in
        measured/ with a hash of their sources, and with the constants that they use. Raises ValueError where one of
        these has changed since, or nothing was measured yet.
        """
        path = MEASURED / f"{self.name}_{name}.json"
        again = f"python scripts/lesson.py {self.number} --measure"
        source = "".join(inspect.getsource(function) for function in (measure, *helpers))
        code = hashlib.sha256(source.encode()).hexdigest()
        constants = constants_of(measure, *helpers)
        if self.measures:
            start = time.perf_counter()
            with use_kernels("fast"):  # the same numbers up to rounding, in a fraction of the time
                result = measure()
            seconds = round(time.perf_counter() - start)
            record = {"code": code, "constants": constants, "seconds": seconds, "result": result}
            write_text(path, json.dumps(record, indent=1) + "\n")
        if not path.exists():
            raise ValueError(f"nothing has measured {name} yet: {again}")
        record = read_json(path)
        changed = [name for name, value in constants.items() if record["constants"].get(name) != value]
        if record["code"] != code:
            changed = [function.__name__ for function in (measure, *helpers)]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed after {path.name} was measured: {again}")
        print(f"(measured in {record['seconds']} s, and kept; to measure it again: {again})")
        return record["result"]


def constants_of(*functions: Any) -> dict[str, str]:
    """The constants of a lesson that its functions use, such as RATES = (1e-3, 3e-3), as text."""
    kinds = (int, float, str, tuple, list, dict, range)
    found = {}
    for function in functions:
        for name in global_names(function.__code__):
            value = function.__globals__.get(name)
            if name.isupper() and (isinstance(value, kinds) or dataclasses.is_dataclass(value)):
                found[name] = re.sub(r" at 0x\w+", "", repr(value))  # where a function is in memory
    return dict(sorted(found.items()))


def global_names(code: types.CodeType) -> set[str]:
    """The names that code takes from its module, and those of the code within (lambda, comprehensions)."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    within = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return names.union(*map(global_names, within))


@contextlib.contextmanager
def picture(folder: Path, name: str, title: str, columns: int = 1, rows: int = 1, size: Any = (7, 4)) -> Iterator[Any]:
    """Axes to draw on (a list, if there are several); afterwards the picture is saved as NAME.svg in the folder.

    Axes get a legend where something on them has a label.
    """
    several = rows * columns > 1
    try:
        from cycler import cycler  # matplotlib's
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        print(f"(no picture {name}: matplotlib is not installed; pip install matplotlib)")
        yield [_Nothing()] * (rows * columns) if several else _Nothing()
        return
    cycle = cycler(color=[BLUE, ORANGE, "#5f7f3f", "#8a5aa0", "#808080"])
    with rc_context({**STYLE, "svg.hashsalt": name, "axes.prop_cycle": cycle}):
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        yield axes if several else axes[0]
        for drawn in axes:
            if drawn.get_legend() is None and drawn.get_legend_handles_labels()[1]:
                drawn.legend(frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    wide = ' class="wide"' * (size[0] > 8)  # too wide for a phone
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img"{wide} aria-label="{escaped(title)}" ', 1)
    for color, of_the_page in OF_THE_PAGE.items():
        svg = svg.replace(color, of_the_page)
    path = folder / f"{name}.svg"
    write_text(path, svg)
    print(f"picture: {path.as_posix()} ({title})")
    if "ipykernel" in sys.modules:
        from IPython.display import SVG, display

        display(SVG(svg))


def widget_html(name: str, data: Any, alone: bool = False) -> str:
    """A widget as HTML. alone: with its scripts, as a notebook needs it; a page has them once, at its end."""
    place = f'<figure class="widget" data-widget="{name}">{data_script(data)}<p>This needs JavaScript.</p></figure>'
    if not alone:
        return place
    style = f"<style>{look('colors', 'widgets')}</style>"
    return f"{style}{place}<script>(() => {{\n{widget_scripts([name])}\n}})()</script>"


def widget_scripts(names: Sequence[str], *modules: Path) -> str:
    """The scripts of some widgets, and the call that starts them. modules: what else the page needs."""
    return f"{joined(*modules, *(WIDGETS / f'{name}.js' for name in names))}\nstartWidgets();"


def use_one_core() -> None:
    """Multiply on one core: matrices of lessons are so small that sharing the work takes longer than doing it."""
    threadpool_limits(limits=1, user_api="blas")


class _Nothing:
    """Axes that draw nothing, for where there is no matplotlib."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self


def heatmap(axes: Any, matrix: Any, rows: Sequence[str], columns: Sequence[str], numbers: str = ".2f") -> None:
    """A matrix as shades of blue, strong for large, each cell with its number. numbers: their format; "" for none."""
    matrix = np.asarray(matrix)
    x, y = (np.arange(size + 1) - 0.5 for size in matrix.T.shape)
    least = min(0.0, float(np.nanmin(matrix)))
    axes.pcolormesh(x, y, matrix, cmap=blues(), vmin=least, vmax=np.nanmax(matrix))  # shapes: the page can color them
    axes.set(ylim=(y[-1], y[0]))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(matrix):
        if numbers and np.isfinite(value):
            axes.text(j, i, format(value, numbers), ha="center", va="center")


def blues() -> Any:
    """Shades for `pcolormesh`, from nothing to blue: black text can be read on them, and white text in dark mode."""
    try:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba
    except ImportError:
        return None
    return LinearSegmentedColormap.from_list("blues", [to_rgba(BLUE, 0.0), to_rgba(BLUE, 0.65)])


def bars(axes: Any, heights: dict[str, float], unit: str, numbers: str = ".3g") -> None:
    """One bar per name, with its height written above it."""
    drawn = axes.bar(list(heights), list(heights.values()), color=BLUE, alpha=0.65)
    axes.bar_label(drawn, fmt=lambda height: format(height, numbers), padding=2, fontsize=8)
    axes.margins(y=0.12)
    axes.set(ylabel=unit)


def generation_loop(axes: Any, steps: Sequence[tuple[str, dict[str, float], str]], shown: int = 4) -> None:
    """The autoregressive loop. A row for each step: the text so far, the most likely next tokens, the one drawn."""
    for row, (text, probabilities, drawn) in enumerate(steps):
        axes.text(0, row, repr(text), va="center", family="monospace")
        axes.annotate("", (3.2, row), (2.5, row), arrowprops={"arrowstyle": "->"})
        best = sorted(probabilities, key=lambda token: -probabilities[token])[:shown]
        for place, token in enumerate(best if drawn in best else [*best[:-1], drawn]):
            x = 3.4 + 1.5 * place
            is_drawn = token == drawn
            axes.barh(row, 1.4 * probabilities[token], left=x, height=0.7, color=BLUE, alpha=0.65 if is_drawn else 0.25)
            label = f"{token!r} {probabilities[token]:.0%}"
            axes.text(x + 0.05, row, label, va="center", weight="bold" if is_drawn else "normal", fontsize=9)
    axes.text(0, -0.8, "text so far")
    axes.text(3.4, -0.8, "the model's probabilities; bold: the token that was drawn, and appended")
    axes.set(xlim=(-0.1, 3.4 + 1.5 * shown), ylim=(len(steps) - 0.4, -1.2))
    axes.axis("off")

"""Which module may import what, and who speaks to the user: read from the sources.

That text names its encoding is looked at by ruff (PLW1514), and in .ci/run by Python (see filterwarnings in setup.cfg).

The direction is minigrad <- gpt <- finetune <- scripts, and inside a package imports go one way as well, so that a
reader can start at the bottom and never meets a name that is explained further up.
"""

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["minigrad", "gpt", "finetune", "scripts"]  # each may import those before it
NEVER = {"torch", "jax", "numba", "pickle"}
OPPONENTS = {"torch", "jax"}  # of measurements, and what else compares:
MAY_COMPARE = ("scripts/benchmark", "scripts/compare_", "scripts/verify_")
MAY_IMPORT_CUPY = ("minigrad/backend.py", "minigrad/kernels/")
MAY_ANNOTATE_TENSOR = ("minigrad.autograd", "minigrad.functional.")  # below tensor.py, and still speak of Tensors

NAMES_A_SCRIPT = re.compile(r"scripts/|\bpython \S+\.py")


class Import(NamedTuple):
    """One imported name: `from gpt import model` imports `gpt.model`, which may be a module or something in one."""

    target: str
    line: int
    types_only: bool  # under `if TYPE_CHECKING:`, so for annotations and not at run time


@functools.cache
def sources(root: Path) -> dict[str, tuple[Path, ast.Module]]:
    """All modules of the packages: dotted name -> (path, syntax tree)."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path, ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(module: str, path: Path, tree: ast.Module) -> Iterator[Import]:
    """Everything that a module imports, inside its functions too; relative imports made absolute."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    guarded = [statement for node in ast.walk(tree) if is_for_types(node) for statement in node.body]
    for_types = {id(node) for statement in guarded for node in ast.walk(statement)}
    for node in ast.walk(tree):
        types_only = id(node) in for_types
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, types_only)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, types_only)


def is_for_types(node: ast.AST) -> bool:
    """Whether this is an `if TYPE_CHECKING:`."""
    name = getattr(node.test, "attr", getattr(node.test, "id", "")) if isinstance(node, ast.If) else ""
    return name == "TYPE_CHECKING"


def import_problems(root: Path) -> list[str]:
    """Imports against the direction of the packages, and of libraries that have no place here."""
    problems = []
    for module, (path, tree) in sources(root).items():
        where = path.relative_to(root).as_posix()
        package = module.split(".")[0]
        for target, line, _ in imports(module, path, tree):
            top = target.split(".")[0]
            if top in PACKAGES[PACKAGES.index(package) + 1 :]:
                problems.append(f"{where}:{line}: {package} imports {target}, which is built on it")
            if top in NEVER and not (top in OPPONENTS and where.startswith(MAY_COMPARE)):
                problems.append(f"{where}:{line}: imports {top}")
            if top in {"cupy", "cupyx"} and not where.startswith(MAY_IMPORT_CUPY):
                problems.append(f"{where}:{line}: imports {top}, which only minigrad/backend.py may do")
            if where == "scripts/setup.py" and top not in sys.stdlib_module_names:
                problems.append(f"{where}:{line}: imports {top}, but runs before anything is installed")
    return problems


def circles(root: Path) -> list[str]:
    """Modules that import each other: at the top, in a function, or for annotations."""
    modules = sources(root)
    graph: dict[str, set[str]] = {}
    for module, (path, tree) in modules.items():
        targets = {target for target, _, types_only in imports(module, path, tree) if not types_only}
        allowed = {"minigrad.tensor.Tensor"} if module.startswith(MAY_ANNOTATE_TENSOR) else set()
        targets |= {target for target, _, types_only in imports(module, path, tree) if types_only} - allowed
        # `from gpt.model import GPT` needs gpt.model; `from gpt import model` needs gpt.model too, not gpt/__init__.py.
        needed = {target if target in modules else target.rpartition(".")[0] for target in targets}
        graph[module] = needed & modules.keys()
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:  # lists each module before the one that imports it
        return ["imports go in a circle: " + " -> ".join(reversed(error.args[1]))]
    return []


def completed_modules(root: Path) -> list[str]:
    """Where a module sets an attribute of another one while it is imported, which hides a circle.

    Lessons are not imported. They run from top to bottom, and one replaces an op to watch it.
    """
    problems = []
    for path, tree in sources(root).values():
        if path.is_relative_to(root / "scripts/lessons"):
            continue
        names = {alias.asname or alias.name.split(".")[0] for alias in our_aliases(tree)}
        for node in at_import(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
                targets = [ast.Attribute(node.args[0])]
            for target in targets:
                owner = target
                while isinstance(owner, ast.Attribute):
                    owner = owner.value
                if isinstance(target, ast.Attribute) and isinstance(owner, ast.Name) and owner.id in names:
                    where = f"{path.relative_to(root).as_posix()}:{node.lineno}"
                    problems.append(f"{where}: sets an attribute of {owner.id}, which it imports; register it there")
    return problems


def our_aliases(tree: ast.Module) -> Iterator[ast.alias]:
    """What a module imports from our packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in PACKAGES):
            yield from node.names
        elif isinstance(node, ast.Import):
            yield from (alias for alias in node.names if alias.name.split(".")[0] in PACKAGES)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of its functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def speaking_problems(root: Path) -> list[str]:
    """Library code that prints past the one console, or sends its reader to a script, which it should not know."""
    problems = []
    for module, (path, tree) in sources(root).items():
        where = path.relative_to(root).as_posix()
        if module.split(".")[0] == "scripts":
            continue
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and where != "gpt/console.py":
                problems.append(f"{where}:{node.lineno}: prints; gpt.console.show does that")
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if is_text and NAMES_A_SCRIPT.search(node.value):
                problems.append(f"{where}:{node.lineno}: names a script: {node.value!r:.60}")
    return problems


def unlisted(root: Path) -> list[str]:
    """What a folder of the packages holds, and its __init__.py, which is its table of contents, does not name."""
    problems = []
    for path, tree in sources(root).values():
        where = path.parent.relative_to(root).as_posix()
        if path.name != "__init__.py" or where.startswith("scripts"):
            continue
        contents = ast.get_docstring(tree) or ""
        for entry in sorted(path.parent.iterdir()):
            name = f"{entry.name}/" if (entry / "__init__.py").exists() else entry.name
            if name.endswith((".py", "/")) and name != "__init__.py" and name not in contents:
                problems.append(f"{where}/__init__.py does not list {name}")
    return problems


def test_imports_follow_the_direction_of_the_packages():
    assert import_problems(ROOT) == []


def test_each_folder_lists_what_it_holds():
    assert unlisted(ROOT) == []


def test_imports_go_in_no_circle():
    assert circles(ROOT) == []


def test_no_module_is_completed_from_outside():
    assert completed_modules(ROOT) == []


def test_one_console_speaks_and_the_library_knows_no_script():
    assert speaking_problems(ROOT) == []


# The checks themselves: each must find what is planted, and must not find what is allowed.

FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("minigrad/nn/linear.py", "import gpt.model"),
        ("minigrad/a.py", "def f():\n    from gpt import model"),
        ("gpt/a.py", "from finetune.lora import apply_lora"),
        ("finetune/a.py", "import scripts.train"),
        ("finetune/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scripts.train"),
        ("gpt/model.py", "import torch.nn as nn"),
        ("gpt/a.py", "try:\n    import numba\nexcept ImportError:\n    pass"),
        ("gpt/checkpoint.py", "import pickle"),
        ("scripts/train.py", "import torch"),
        ("scripts/benchmark.py", "from pickle import load"),
        ("minigrad/tensor.py", "import cupy as cp"),
        ("gpt/a.py", "from cupyx.scipy import special"),
        ("scripts/setup.py", "import numpy"),
        ("scripts/setup.py", "def f():\n    import minigrad"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, name, source):
    problems = import_problems(plant(tmp_path, {name: source}))
    assert problems and name in problems[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gpt/model.py", "import numpy, minigrad.nn\nfrom minigrad import Tensor\nfrom . import attention"),
        ("scripts/train.py", "import finetune, gpt, minigrad"),
        ("scripts/benchmark.py", "import torch"),
        ("minigrad/backend.py", "import cupy"),
        ("minigrad/kernels/cuda.py", "from cupy import RawKernel"),
        ("scripts/setup.py", "import json, venv"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path, name, source):
    assert import_problems(plant(tmp_path, {name: source})) == []


@pytest.mark.parametrize(
    "files",
    [
        {"gpt/a.py": "import gpt.b", "gpt/b.py": "import gpt.a"},
        {"gpt/a.py": "from .b import f", "gpt/b.py": "from . import a"},
        {"gpt/a.py": "import gpt.b", "gpt/b.py": "def f():\n    from gpt.a import g"},
        {"gpt/__init__.py": "from .a import f", "gpt/a.py": "from gpt import g"},
        {"gpt/a.py": "import gpt.b.c", "gpt/b/c.py": "from ..d import f", "gpt/d.py": "import gpt.a"},
        {"gpt/b/__init__.py": "from .c import f", "gpt/b/c.py": "from .. import b"},
        {
            "gpt/a.py": "import gpt.b",
            "gpt/b.py": "import typing\nif typing.TYPE_CHECKING:\n    from gpt.a import f",
        },
        {"gpt/a.py": f"{FOR_TYPES}    from .b import B", "gpt/b.py": f"{FOR_TYPES}    from .a import A"},
    ],
)
def test_a_circle_is_found(tmp_path, files):
    assert "gpt." in circles(plant(tmp_path, files))[0]


@pytest.mark.parametrize(
    "files",
    [
        {"gpt/a.py": "import gpt.b", "gpt/b.py": "import gpt.c", "gpt/c.py": "import numpy"},
        {"gpt/__init__.py": "from .a import f", "gpt/a.py": "from . import b", "gpt/b.py": "from gpt.c import g"},
        {"gpt/a.py": "import gpt.b", "gpt/b.py": f"{FOR_TYPES}    from gpt.c import C", "gpt/c.py": "import gpt.d"},
        {
            "minigrad/tensor.py": "from . import autograd\nfrom . import functional as F",
            "minigrad/autograd.py": f"{FOR_TYPES}    from .tensor import Tensor",
            "minigrad/functional/__init__.py": "from .loss import f",
            "minigrad/functional/loss.py": f"import minigrad.autograd\n{FOR_TYPES}    from ..tensor import Tensor",
        },
    ],
)
def test_what_is_no_circle_is_not_found(tmp_path, files):
    assert circles(plant(tmp_path, files)) == []


def test_a_circle_is_named_in_the_direction_of_its_imports(tmp_path):
    files = {"gpt/a.py": "import gpt.b", "gpt/b.py": "import gpt.c", "gpt/c.py": "import gpt.a"}
    ring = circles(plant(tmp_path, files))[0].partition(": ")[2].split(" -> ")
    assert set(zip(ring, ring[1:])) == {("gpt.a", "gpt.b"), ("gpt.b", "gpt.c"), ("gpt.c", "gpt.a")}


@pytest.mark.parametrize(
    "source",
    [
        "from . import b\nb.f = 1",
        "from .b import C\nC.f = C.g = 1",
        "import gpt.b\ngpt.b.f = 1",
        "import gpt.b as c\nc.f: int = 1",
        "from gpt import b\nif b:\n    b.n += 1",
        "from . import b\nsetattr(b, 'f', 1)",
        "def f():\n    pass\n\nfrom . import b\nclass A:\n    b.f = f",
    ],
)
def test_a_module_that_is_completed_from_outside_is_found(tmp_path, source):
    assert len(completed_modules(plant(tmp_path, {"gpt/a.py": source, "gpt/b.py": ""}))) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "import matplotlib\nmatplotlib.backend = 1",
        "from . import b\ndef f():\n    b.f = 1",
        "from . import b\nclass A: pass\nA.f = b\nb.register(A)",
        "from . import b\n@b.register\ndef f(x):\n    x.f = b\n    return lambda: setattr(b, 'f', x)",
    ],
)
def test_a_registry_is_not_found(tmp_path, source):
    assert completed_modules(plant(tmp_path, {"gpt/a.py": source, "gpt/b.py": ""})) == []


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "def f():\n    print()",
        "show('python scripts/train.py')",
        "f'see scripts/{x}.py'",
        "x = 'python a.py'",
    ],
)
def test_what_speaks_past_the_console_is_found(tmp_path, source):
    assert len(speaking_problems(plant(tmp_path, {"gpt/a.py": source}))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gpt/console.py", "print('x')"),
        ("gpt/a.py", '"""As scripts/train.py does: print(x)."""\nshow("x.py")'),
        ("scripts/train.py", "print('python scripts/generate.py')"),
    ],
)
def test_what_may_speak_is_not_found(tmp_path, name, source):
    assert speaking_problems(plant(tmp_path, {name: source})) == []


def test_a_file_that_is_not_listed_is_found(tmp_path):
    empty = dict.fromkeys(["gpt/a.py", "gpt/c.py", "gpt/b/__init__.py", "gpt/b/d.py"], "")
    assert unlisted(plant(tmp_path, {"gpt/__init__.py": '"""a.py, b/"""', **empty})) == [
        "gpt/__init__.py does not list c.py",
        "gpt/b/__init__.py does not list d.py",
    ]

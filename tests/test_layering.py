"""Which module may import what, and who speaks to the user: read from the sources.

That text names its encoding is looked at by ruff (PLW1514), and in .ci/run by Python (see filterwarnings in setup.cfg).

The direction is minigrad <- gpt <- finetune <- scripts, and inside a package imports go one way as well, so that a
reader can start at the bottom and never meets a name that is explained further up.
"""

import ast
import functools
import graphlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["minigrad", "gpt", "finetune", "scripts"]  # each may import those before it
NEVER = {"torch", "jax", "numba", "pickle"}
OPPONENTS = {"torch"}  # of measurements, and what else compares:
MAY_COMPARE = ("scripts/benchmark", "scripts/compare_", "scripts/verify_")
MAY_IMPORT_CUPY = ("minigrad/backend.py", "minigrad/kernels/")

CHANGES = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}  # methods of tables
NAMES_A_SCRIPT = re.compile(r"scripts/|\bpython \S+\.py")


class Import(NamedTuple):
    """One imported name: `from gpt import model` imports `gpt.model`, which may be a module or something in one."""

    target: str
    line: int
    to_annotate: bool  # under `if TYPE_CHECKING:`, so never when a program runs


class Module(NamedTuple):
    """A source file, parsed and walked once for all checks."""

    where: str  # gpt/model/gpt2.py
    tree: ast.Module
    nodes: list[ast.AST]  # all nodes of the tree
    imports: list[Import]


@functools.cache
def sources(root: Path) -> dict[str, Module]:
    """All modules of the packages, by their dotted names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            where = path.relative_to(root)
            module = ".".join(where.parent.parts if path.name == "__init__.py" else where.with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            nodes = list(ast.walk(tree))
            found[module] = Module(where.as_posix(), tree, nodes, list(imports(where.parent.parts, tree)))
    return found


def imports(folders: tuple[str, ...], tree: ast.AST, to_annotate: bool = False) -> Iterator[Import]:
    """Everything that a module in these folders imports, inside its functions too; relative imports made absolute."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, to_annotate)
        elif isinstance(node, ast.ImportFrom):
            parents = folders[: len(folders) - node.level + 1] if node.level else ()
            base = ".".join([*parents, node.module] if node.module else parents)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, to_annotate)
        elif not isinstance(node, ast.expr):
            yield from imports(folders, node, to_annotate or is_for_annotations(node))


def is_for_annotations(node: ast.AST) -> bool:
    """Whether this is an `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def calls(node: ast.AST, name: str) -> bool:
    """Whether this is a call of the function with this name."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def import_problems(root: Path) -> Iterator[str]:
    """Imports against the direction of the packages, and of libraries that have no place here."""
    for module, source in sources(root).items():
        where = source.where
        package = module.split(".")[0]
        for target, line, _ in source.imports:
            top = target.split(".")[0]
            if top in PACKAGES[PACKAGES.index(package) + 1 :]:
                yield f"{where}:{line}: {package} imports {target}, which is built on it"
            if top in NEVER and not (top in OPPONENTS and where.startswith(MAY_COMPARE)):
                yield f"{where}:{line}: imports {top}"
            if top in {"cupy", "cupyx"} and not where.startswith(MAY_IMPORT_CUPY):
                yield f"{where}:{line}: imports {top}, which only minigrad/backend.py may do"
            if where == "scripts/setup.py" and top not in sys.stdlib_module_names:
                yield f"{where}:{line}: imports {top}, but runs before anything is installed"


def circles(root: Path) -> Iterator[str]:
    """Modules, or folders side by side, that import each other, at the top or in a function. Annotations may."""
    modules = sources(root)
    graphs: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]  # of modules, of folders
    for module, source in modules.items():
        for target, _, to_annotate in source.imports:
            # `from gpt.model import GPT` needs gpt.model; `from gpt import model` needs gpt.model too, not gpt itself.
            needed = target if target in modules else target.rpartition(".")[0]
            if needed in modules and not to_annotate:
                graphs[0][module].add(needed)
                here, there = side_by_side(source.where, modules[needed].where)
                if ".py" not in here + there and here != there:
                    graphs[1][here].add(there)
    for graph in graphs:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:  # lists each module before the one that imports it
            yield "imports go in a circle: " + " -> ".join(reversed(error.args[1]))


def side_by_side(*files: str) -> list[str]:
    """The folders in which two files are, or the files themselves, as they lie beside each other in a common folder.

    >>> side_by_side("gpt/model/gpt2.py", "gpt/weights/hub.py"), side_by_side("gpt/files.py", "gpt/weights/hub.py")
    (['gpt/model', 'gpt/weights'], ['gpt/files.py', 'gpt/weights'])
    """
    common = len(Path(os.path.commonpath(files)).parts)
    return ["/".join(Path(file).parts[: common + 1]) for file in files]


def completed_modules(root: Path) -> Iterator[str]:
    """Where a module changes another one, or a table there, while it is imported, which hides a circle.

    Lessons and steps are not imported. They run from top to bottom; one replaces an op to watch it.
    """
    for where, tree, nodes, _ in sources(root).values():
        if where.startswith(("scripts/course/lessons/", "scripts/course/steps/")):
            continue
        names = {alias.asname or alias.name.split(".")[0] for alias in our_aliases(nodes)}
        for node in at_import(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if calls(node, "setattr"):
                targets = [ast.Attribute(node.args[0], "")]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in CHANGES:  # table.update(...)
                targets = [node.func]
            for target in targets:
                owner = target
                while isinstance(owner, ast.Attribute | ast.Subscript):
                    owner = owner.value
                changes = owner is not target or isinstance(node, ast.AugAssign)  # a plain name is only bound again
                if changes and isinstance(owner, ast.Name) and owner.id in names:
                    yield f"{where}:{node.lineno}: changes {owner.id}, which it imports; register it there"


def our_aliases(nodes: list[ast.AST]) -> Iterator[ast.alias]:
    """The names that a module imports from our packages."""
    for node in nodes:
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


def speaking_problems(root: Path) -> Iterator[str]:
    """Library code that prints past the one console, or sends its reader to a script, which it should not know."""
    for where, _, nodes, _ in sources(root).values():
        if where.startswith("scripts/"):
            continue
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if calls(node, "print") and where != "gpt/console.py":
                yield f"{where}:{node.lineno}: prints; gpt.console.show does that"
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if is_text and NAMES_A_SCRIPT.search(node.value):
                yield f"{where}:{node.lineno}: names a script: {node.value!r:.60}"


def unlisted(root: Path) -> Iterator[str]:
    """Files and folders of the packages that the __init__.py of their folder, its table of contents, does not name."""
    for where, tree, *_ in sources(root).values():
        path = root / where
        if path.name != "__init__.py" or "exercises" in where:
            continue
        readme = path.with_name("README.md")  # to which the __init__.py of a large folder sends its reader
        contents = (ast.get_docstring(tree) or "") + (readme.read_text(encoding="utf-8") if readme.exists() else "")
        for entry in sorted(path.parent.iterdir()):
            name = f"{entry.name}/" if (entry / "__init__.py").exists() else entry.name
            if name.endswith((".py", "/")) and name != "__init__.py" and name not in contents:
                yield f"{where} does not list {name}"


CHECKS = [import_problems, circles, completed_modules, speaking_problems, unlisted]


def test_our_sources_keep_to_it():
    assert {check.__name__: list(check(ROOT)) for check in CHECKS} == {check.__name__: [] for check in CHECKS}


# The checks themselves: each must find what is planted.

LATER = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scripts.train\ndef f():\n    from gpt import b"
CHANGED = """from . import b
b.f = b.T[0] = 1
b |= {}
b.T[0].add(1)
setattr(b, 'f', 1)
b = {**b.T}
def f():
    b.f = 1
"""

# What each check finds: file -> source, and the beginning of each message.
PLANTED = [
    (import_problems, {"minigrad/a.py": LATER}, ["minigrad/a.py:3: minigrad imports", "minigrad/a.py:5: minigrad"]),
    (circles, {"gpt/a.py": "from .b import f", "gpt/b.py": "def f(): from . import a"}, ["imports go in a circle"]),
    (completed_modules, {"gpt/a.py": CHANGED}, [f"gpt/a.py:{line}: changes b" for line in (2, 2, 3, 4, 5)]),
    (speaking_problems, {"gpt/a.py": "print(f'see scripts/{x}.py')"}, ["gpt/a.py:1: prints", "gpt/a.py:1: names"]),
    (unlisted, {"gpt/__init__.py": '"""a.py"""', "gpt/a.py": "", "gpt/c.py": ""}, ["gpt/__init__.py does not list c"]),
]


@pytest.mark.parametrize("check, files, messages", PLANTED)
def test_each_check_finds_what_is_planted_and_nothing_else(tmp_path, check, files, messages):
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    found = list(check(tmp_path))
    assert len(found) == len(messages), found
    assert all(message.startswith(beginning) for message, beginning in zip(found, messages)), found

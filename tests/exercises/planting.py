"""An exercise's right solution, and the same with a mistake planted in it."""

import inspect
import sys
import textwrap
from pathlib import Path

from scripts.exercises import judging, source
from scripts.exercises.catalogue import ASSESSMENT, HERE, load, paths
from scripts.exercises.checks import find_object

REFERENCES = Path(__file__).parent / "references"
PATHS = paths([HERE, ASSESSMENT])


def reference_text(name):
    return (REFERENCES / f"{name}.py").read_text(encoding="utf-8")


def reference(exercise):
    """The definitions of a right solution."""
    if exercise.answer:
        return exercise.reference()
    return defined(reference_text(exercise.name))


def defined(text):
    definitions, problem = source.define(text, Path("planted.py"))
    assert problem is None, problem
    return definitions


def planted(exercise, mistake):
    """The definitions of a solution with the mistake, and its text."""
    if mistake.old is None:
        text = completed(exercise.stub, mistake.new)
        return defined(text), text
    if not exercise.answer:
        text = replaced(reference_text(exercise.name), mistake)
        return defined(text), text
    found = [find_object(name) for name in exercise.answer]
    texts = [textwrap.dedent(inspect.getsource(obj)) for obj in found]
    assert any(mistake.old in text for text in texts), (
        f"{exercise.name}: {mistake.old!r} is not in the library's source"
    )
    namespaces = {obj.__module__: dict(vars(sys.modules[obj.__module__])) for obj in found}
    objects = {}
    for name, obj, text in zip(exercise.answer, found, texts, strict=True):
        namespace, last = namespaces[obj.__module__], name.rpartition(".")[2]
        exec("from __future__ import annotations\n" + text.replace(mistake.old, mistake.new), namespace)
        objects[last] = namespace[last]
        for other in namespaces.values():  # the others see it, too, if they use it
            other.update({last: namespace[last]} if last in other else {})
    return exercise.adapt(objects), "\n".join(texts)


def completed(stub, code):
    """The stub with everything from its first TODO's `raise` replaced; code that ends the file ends the stub."""
    lines = stub.splitlines()
    first = next(i for i, line in enumerate(lines) if "raise NotImplementedError" in line)
    rest = lines[first + 1 :] if "return" not in code and "def " not in code else []
    return "\n".join([*lines[:first], *code.strip("\n").splitlines(), *rest]) + "\n"


def replaced(text, mistake):
    assert mistake.old in text, f"{mistake.old!r} is not in the reference"
    return text.replace(mistake.old, mistake.new)


def verdict_on_definitions(exercise, definitions, text, seed=0):
    return judging.judge(exercise.checks, definitions, text, "planted.py", seed)


def exercise_named(name):
    return load(PATHS[name])

"""Write names.json: every name and signature of CuPy that the stand-in may offer, taken from CuPy itself.

    pip install 'cupy-cuda12x>=14.2,<15' ml_dtypes          (no GPU is needed: nothing is computed)
    python tests/standin/make_names.py

CuPy's compiled functions carry their signatures as the first line of their docstrings. Defaults are written as `...`:
what matters is which arguments exist, in which order, and which of them may be left out.
"""

import inspect
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def parameters(function):
    """The parameter list of `function` as text that Python can read: "a, axis=..., dtype=..."; None if unknown."""
    try:
        signature = inspect.signature(function)
        text = str(signature.replace(return_annotation=inspect.Signature.empty))[1:-1]
    except (TypeError, ValueError):
        found = re.match(r"[\w.]*\((.*?)\)(?: -> .*)?$", (function.__doc__ or "").split("\n")[0].replace("\\", ""))
        if found is None:
            return None
        text = found[1]
    parts = [part.strip() for part in re.split(r",\s*(?![^()]*\))", text) if part.strip()]
    return ", ".join(_without_types_and_defaults(part) for part in parts if part != "self")


def _without_types_and_defaults(part):
    name, equals, _ = part.partition("=")
    name = name.split(":")[0].strip().split(" ")[-1]  # "Py_ssize_t axis1" is axis1
    return name + ("=..." if equals else "")


def ufunc(function):
    """The signature of an elementwise function: arguments, loops by dtype ("ff->f"), and whether it has `.at`."""
    entry = {"parameters": parameters(function), "types": function.types}
    return {**entry, "at": True} if getattr(function, "_scatter_op", None) else entry


def public(module):
    return {name: getattr(module, name) for name in sorted(dir(module)) if not name.startswith("_")}


def signatures(things):
    """{name: parameters} of what can be called and says how."""
    found = {name: parameters(thing) for name, thing in things.items() if callable(thing)}
    return {name: text for name, text in found.items() if text is not None}


def names():
    """Everything that goes into names.json."""
    import cupy

    top = public(cupy)
    ufuncs = {name: ufunc(thing) for name, thing in top.items() if type(thing).__name__ == "ufunc"}
    callables = {name: thing for name, thing in top.items() if name not in ufuncs and not isinstance(thing, type)}
    members = public(cupy.ndarray)
    methods = signatures({name: member for name, member in members.items() if callable(member)})
    return {
        "version": cupy.__version__,
        "functions": signatures(callables),
        "ufuncs": ufuncs,
        "types": [name for name, thing in top.items() if isinstance(thing, type)],
        "constants": {name: repr(thing) for name, thing in top.items() if isinstance(thing, float)},
        "methods": methods,
        "attributes": sorted(set(members) - set(methods)),
        "operators": [name for name in sorted(dir(cupy.ndarray)) if name.startswith("__") and name.endswith("__")],
        "random": sorted({*public(cupy.random), "Generator"}),  # which is loaded when it is asked for
        "generator": signatures(public(cupy.random.Generator)),
        "cuda": sorted(public(cupy.cuda)),
    }


if __name__ == "__main__":
    sys.path = [path for path in sys.path if Path(path).resolve() != HERE]  # or `import cuda` would find ours
    text = json.dumps(names(), indent=1)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]", text)
    (HERE / "names.json").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {HERE / 'names.json'}, {len(text):,} characters")

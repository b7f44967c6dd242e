"""Run the tests of other libraries once for each extra of setup.cfg, as if the other extras were not installed.

    python -m tests.each_extra [EXTRA ...]        all that are installed here, unless some are named

A test that needs more libraries than its mark `oracle` names is skipped where no extra is installed, passes where all
are, and fails where only one is. The environment with one extra is made of links to the packages of this one, so
nothing is downloaded.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from scripts import setup


def main(names):
    """Test with each of these extras, or with all; return the exit code."""
    code = 0
    usual = packages_of("minigrad", ["all"], {})
    known = [extra for extra in setup.known_extras() if extra != "trl"]  # its tests are slow
    for extra in names or known:
        packages = packages_of("minigrad", ["all", extra], {})
        files = files_that_name([packages[key] for key in packages.keys() - usual.keys()])
        print(f"\n== {extra}: {', '.join(files) or 'no test needs it, or it is not installed'}", flush=True)
        if files:
            with tempfile.TemporaryDirectory() as folder:
                python = make_environment(folder, packages.values())
                command = [python, "-m", "pytest", *setup.IN_PARALLEL, "-q", "-m", "oracle and not slow", *files]
                failed = subprocess.call(command, cwd=setup.ROOT)
                code = failed if failed not in (0, 5) else code  # 5: none of the tests has the mark
    return code


def packages_of(package, extras, found):
    """Add to `found` the installed packages that a package with these extras requires, directly or not."""
    for requirement in map(Requirement, metadata.requires(package) or []):
        key = (requirement.name, *sorted(requirement.extras))
        marker = requirement.marker
        if key in found or (marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras))):
            continue
        try:
            found[key] = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:  # of another extra, or left out by scripts/setup.py
            continue
        packages_of(requirement.name, requirement.extras, found)
    return found


def files_that_name(packages):
    """The test files with a mark that names one of these packages. The bare mark names torch and transformers."""
    names = {package.name for package in packages}
    modules = [module for module, owners in metadata.packages_distributions().items() if names & {*owners}]
    mark = re.compile(rf'"({"|".join(modules)})"' + (r"|mark\.oracle(?!\()" if "torch" in modules else ""))
    paths = sorted((setup.ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(setup.ROOT)) for path in paths if modules and mark.search(path.read_text("utf-8"))]


def make_environment(folder, packages):
    """Make an environment that has these packages; return its Python."""
    venv.create(folder, symlinks=True)
    variables = {"base": folder, "platbase": folder}
    site = Path(sysconfig.get_path("purelib", vars=variables))
    for package in packages:
        for file in package.files:
            link = site / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():  # two requirements can name one package
                link.symlink_to(package.locate_file(file))
    return Path(sysconfig.get_path("scripts", vars=variables)) / "python"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

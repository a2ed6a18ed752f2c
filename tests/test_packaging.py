"""One set of pins for pip, conda and CI, and a package that holds all of its modules."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
DIRECT = [
    Requirement(line)
    for line in (
        *PROJECT["project"]["dependencies"],
        *(item for e in EXTRAS.values() for item in e),
    )
]


def lines(name: str) -> list[str]:
    """The lines of a file that are neither empty nor a comment."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


LOCKED = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines("requirements.lock"))}


def locked_version(name: str) -> str:
    (specifier,) = LOCKED[canonicalize_name(name)].specifier
    return specifier.version


def test_the_lock_pins_each_package_once_to_one_version():
    assert len(LOCKED) == len(lines("requirements.lock"))
    assert list(LOCKED) == sorted(LOCKED)
    for pin in LOCKED.values():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
        assert pin.url is None


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_a_direct_dependency_is_pinned_in_its_range_and_installed_so(requirement):
    pinned = locked_version(requirement.name)
    assert pinned in requirement.specifier
    assert version(requirement.name) == pinned


def test_the_lock_holds_what_the_dependencies_need():
    missing = []
    for name, pin in LOCKED.items():
        if pin.marker and not pin.marker.evaluate():
            continue
        for line in distribution(name).requires or ():
            need = Requirement(line)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            found = LOCKED.get(canonicalize_name(need.name))
            if found is None or not need.specifier.contains(
                locked_version(need.name), prereleases=True
            ):
                missing.append(f"{name} needs {need}")
    assert missing == []


def test_whatever_the_code_imports_is_a_direct_dependency():
    imported = set()
    for path in (p for folder in ("glacier_utils", "tests") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    own = {"glacier_utils", "benchmarks", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    declared = {canonicalize_name(requirement.name) for requirement in DIRECT}
    providers = packages_distributions()
    undeclared = {
        name
        for name in imported - own - set(sys.stdlib_module_names)
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, ())}
    }
    assert undeclared == set()


def test_conda_gives_python_and_the_same_pins():
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = content["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.lock", "-e ."]}
    assert content["name"]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert python.startswith("python=")
    assert f"{python.removeprefix('python=')}.0" in allowed
    assert PROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_make_installs_the_pins_and_nothing_else():
    installs = [line for line in lines("Makefile") if "pip install" in line]
    assert len(installs) == 2
    assert installs[0].endswith("-r requirements.lock")
    # The package itself, whose dependencies are there already; no build environment is downloaded.
    assert "--no-deps" in installs[1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--no-build-isolation --editable ." in makefile
    assert "setuptools" in LOCKED
    assert "(STAMP): requirements.lock pyproject.toml" in makefile


def test_ci_runs_what_make_test_runs():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    assert lines(".ci/run")[-1].split()[-2:] == ["make", "test"]
    assert "pip install" not in script.read_text(encoding="utf-8")
    (recipe,) = (line for line in lines("Makefile") if "pytest" in line)
    assert "pytest tests notebooks --nbval" in recipe


def test_the_lock_is_what_is_installed():
    if Path(sys.prefix).resolve() != ROOT / ".venv":
        pytest.skip("not run in the project's own .venv, which requirements.lock describes")
    printed = subprocess.run(
        [sys.executable, ROOT / "tools" / "lock.py"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_the_wheel_holds_every_module_and_the_command(tmp_path):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "glacier_utils").rglob("*.py")}
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "glacier_utils", copy / "glacier_utils", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "README.md").write_text("# The project's README\n")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "glacier = glacier_utils.cli:main" in archive.read(entries).decode()
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0].split("-")[0] for name in names} == {"glacier_utils"}


def test_the_package_has_one_version():
    import glacier_utils

    assert glacier_utils.__version__ == PROJECT["project"]["version"] == version("glacier-utils")

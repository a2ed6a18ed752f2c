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
    folders = ("glacier_utils", "tests", "benchmarks", "studies", "tools")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    own = {*folders, *(path.stem for path in (ROOT / "tests").rglob("*"))}
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
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest: style\n")[2]
    assert recipe.startswith("\t$(BIN)/python -m pytest tests notebooks --nbval")


def test_the_workflow_calls_what_ci_runs_on_each_python():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run"
    named = [f"Programming Language :: Python :: {v}" for v in job["strategy"]["matrix"]["python"]]
    classifiers = PROJECT["project"]["classifiers"]
    assert named == [c for c in classifiers if c.startswith("Programming Language :: Python :: 3.")]


def test_a_commit_is_checked_as_make_does():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"  # the versions that requirements.lock pins, no others
    hooks = {hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nstyle: ")[2]
    steps = [line for line in recipe.partition("\ntest: ")[0].splitlines() if "$(BIN)/" in line]
    assert hooks == {step.strip().removeprefix("$(BIN)/") for step in steps}


def test_the_lock_is_what_is_installed():
    if Path(sys.prefix).resolve() != ROOT / ".venv":
        pytest.skip("not run in the project's own .venv, which requirements.lock describes")
    printed = subprocess.run(
        [sys.executable, ROOT / "tools" / "lock.py"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_exact_versions_stand_in_the_lock_alone():
    # What reads one format of a foreign file may exclude the next version, but pins none.
    assert [str(need) for need in DIRECT if "==" in str(need.specifier)] == []


def test_the_wheel_holds_the_whole_package_and_the_command(tmp_path):
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "glacier_utils", copy / "glacier_utils", ignore=ignored)
    files = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "README.md").write_text("# The project's README\n")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "glacier = glacier_utils.cli:main" in archive.read(entries).decode()
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == files
    assert {"glacier_utils/py.typed", "glacier_utils/raster/__init__.pyi"} <= files


def test_the_project_has_one_version():
    import glacier_utils

    released = PROJECT["project"]["version"]
    assert glacier_utils.__version__ == released == version("glacier-utils")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == released
    assert f"\n## [{released}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "glacier_utils").rglob("*.py"))
    assert released not in code.replace(f"version {released}", "")

"""The package's shape: small, without circles, and its public names what they say."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tools import house

PACKAGE = Path(__file__).resolve().parents[1] / "glacier_utils"
SUBPACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.fixture(scope="module")
def measured() -> dict:
    return house.measure()


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_each_public_name_is_the_same_at_the_second_access(name):
    package = importlib.import_module(f"glacier_utils.{name}")
    assert package.__all__
    first = {public: getattr(package, public) for public in package.__all__}
    for public, value in first.items():
        assert getattr(package, public) is value
    files = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not files & set(package.__all__)


def test_the_package_stays_small(measured):
    assert measured["modules"] <= house.LIMITS["modules"]
    assert measured["lines"] <= house.LIMITS["lines"]
    largest = max(measured["code"], key=measured["code"].get)
    assert measured["code"][largest] <= house.LIMITS["largest"], largest


def test_there_are_twelve_subpackages_and_six_files_at_the_top(measured):
    assert measured["packages"] == SUBPACKAGES
    assert len(SUBPACKAGES) == house.LIMITS["packages"]
    assert len(measured["top"]) <= house.LIMITS["top"], measured["top"]


def test_no_modules_import_each_other(measured):
    assert measured["circles"] == []


def test_a_notebook_imports_few_names(measured):
    for notebook, names in measured["imports"].items():
        assert len(names) <= house.LIMITS["imports"], f"{notebook}: {sorted(names)}"


@pytest.mark.slow
def test_mypy_finds_no_wrong_types():
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=PACKAGE.parent, capture_output=True,
                           text=True)  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


def test_lines_of_code_leave_out_what_is_for_people(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""What it is.\n\nMore."""\n\n# Why.\nx = """a\nb"""\n\n\ndef f():\n    """Do."""\n'
    )
    assert house.lines_of_code(path) == 3


def test_circles_are_found_directly_and_around():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"e"}, "f": set()}
    assert house.circles(arrows) == [["a", "b", "c"], ["e"]]

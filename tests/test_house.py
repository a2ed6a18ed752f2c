"""The package's sub-packages: each public name is what it says, at the first access and the second."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "glacier_utils"
SUBPACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_each_public_name_is_the_same_at_the_second_access(name):
    package = importlib.import_module(f"glacier_utils.{name}")
    assert package.__all__
    first = {public: getattr(package, public) for public in package.__all__}
    for public, value in first.items():
        assert getattr(package, public) is value
    files = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not files & set(package.__all__)

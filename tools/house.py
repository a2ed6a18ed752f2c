"""Count the package: modules, lines of code, circles of imports, what a notebook imports.

    python tools/house.py

Lines of code are those that are neither blank, comment nor docstring.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "glacier_utils"
# At the limit, what goes in says what may go out.
LIMITS = {"modules": 80, "packages": 12, "top": 6, "lines": 17_000, "largest": 500, "imports": 8}


def modules() -> dict[str, Path]:
    """Return dotted name -> file of each module; the `__init__` files are not counted."""
    paths = (path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def lines_of_code(path: Path) -> int:
    """Return the number of lines that are neither blank, comment nor docstring."""
    text = path.read_text("utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for part in body:
                if (
                    isinstance(part, ast.Expr)
                    and isinstance(part.value, ast.Constant)
                    and isinstance(part.value.value, str)
                ):
                    left_out |= set(range(part.lineno, part.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and line.strip()[0] != "#" and n not in left_out for n, line in lines
    )


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glacier_utils"):
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & known.keys()


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of modules that import each other, directly or around (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1 or name in arrows[name]:
                found.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def notebook_imports() -> Iterator[tuple[str, set[str]]]:
    """Yield each notebook with the names that it imports from the package."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        names: set[str] = set()
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] != "code":
                continue
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                    "glacier_utils"
                ):
                    names |= {name.name for name in node.names}
        yield path.name, names


def measure() -> dict:
    """Return all that is counted."""
    found = modules()
    code = {name: lines_of_code(path) for name, path in found.items()}
    inits = sum(lines_of_code(path) for path in PACKAGE.rglob("__init__.py"))
    packages = sorted({name.split(".")[1] for name in found if name.count(".") > 1})
    return {
        "modules": len(found),
        "packages": packages,
        "top": sorted(path.name for path in PACKAGE.glob("*.py")),
        "lines": sum(code.values()) + inits,
        "by_package": {
            p: sum(n for m, n in code.items() if m.split(".")[1] == p) for p in packages
        },
        "code": code,
        "circles": circles({name: imported(path, found) for name, path in found.items()}),
        "imports": dict(notebook_imports()),
    }


def main() -> None:
    """Print what `measure` found."""
    house = measure()
    print(f"modules            {house['modules']} (at most {LIMITS['modules']})")
    print(f"sub-packages       {len(house['packages'])}; {len(house['top'])} files at the top")
    print(f"lines of code      {house['lines']:,} (at most {LIMITS['lines']:,})")
    for name, lines in house["by_package"].items():
        print(f"  {name:16} {lines:6,}")
    for name, lines in sorted(house["code"].items(), key=lambda item: -item[1])[:5]:
        print(f"largest            {lines} {name}")
    print(f"import circles     {len(house['circles'])}")
    for circle in house["circles"]:
        print("  " + " ".join(name.removeprefix("glacier_utils.") for name in circle))
    for name, names in house["imports"].items():
        print(f"imports            {len(names)} {name}")


if __name__ == "__main__":
    main()

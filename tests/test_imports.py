"""Which part of diagd may know which: no circles, and arrows that point one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import diagd_cli

# The floors of the house, from the ground up: a part may know those below it, and none beside it or
# above.
FLOORS = [
    "errors metrics progress versions",
    "processor",
    "device distributed files free_memory mapping",
    "explain model",
    "tokens",
    "checkpoints schedule",
    "families",
    "clip consistency sections sources",
    "preset engine",
    "preset_files",
    "stream weights result",
    "inputs loading",
    "conditions",
    "pipeline",
    "report",
    "train",
    "jobs",
    "play",
    "cli",
    "__main__",
]
ROOT = Path(diagd_cli.__file__).parent
FILES = {
    ".".join(("diagd_cli", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in ROOT.rglob("*.py")
}


def imported(node: ast.AST) -> Iterator[str]:
    """What code imports, also within functions; not what only types need."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        whole = (f"{node.module}.{alias.name}" for alias in node.names)
        yield from (name if name in FILES else node.module for name in whole)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {name: set(imported(ast.parse(path.read_text()))) for name, path in FILES.items()}


def test_no_circles(graph):
    """Modules whose own imports are all read can be set aside; what is never set aside stands in a
    circle or needs one.
    """
    left = {name: {other for other in found if other in FILES} for name, found in graph.items()}
    while done := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in done:
            del left[name]
    assert not left


def test_arrows_point_down(graph):
    floor = {part: n for n, parts in enumerate(FLOORS) for part in parts.split()}
    for name, found in graph.items():
        own = name.split(".")[1:2]
        for other in found & FILES.keys() - {"diagd_cli"}:
            part = other.split(".")[1]
            assert not own or part == own[0] or floor[part] < floor[own[0]], (
                f"{name} imports {other}"
            )
    assert set(floor) == {name.split(".")[1] for name in FILES if "." in name}


def test_nothing_below_knows_the_command_line(graph):
    for name, found in graph.items():
        if not name.startswith("diagd_cli.cli") and name != "diagd_cli.__main__":
            assert not {
                other
                for other in found
                if other.startswith("diagd_cli.cli.") or other.split(".")[0] in ("typer", "rich")
            }, name


@pytest.mark.parametrize("package", ["schedule", "families.family", "errors"])
def test_plans_are_made_without_torch(graph, package):
    reached, new = set(), {name for name in FILES if name.startswith(f"diagd_cli.{package}")}
    while new:
        reached |= new
        new = {other for name in new for other in graph.get(name, ())} - reached
    assert not {name for name in reached if name.split(".")[0] == "torch"}

"""What surrounds the program agrees with it: versions, workflows, templates, records."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import diagd_cli

ROOT = Path(__file__).parent.parent
RECORDS = [
    ".pre-commit-config.yaml",
    "CITATION.cff",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/**/*.yml")),
]


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDS)
def test_records_can_be_read(name):
    assert isinstance(load(name), dict)


def test_the_version_is_told_once_everywhere():
    changes = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert (
        changes[0] == "Unreleased"
        and changes[1] == load("CITATION.cff")["version"] == diagd_cli.__version__
    )


def test_one_ruff():
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    [hooks] = load(".pre-commit-config.yaml")["repos"]
    assert hooks["rev"] == f"v{pinned}"


def test_every_python_that_is_named_is_tested():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert (
        load(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    )
    assert f'requires-python = ">={named[0]}"' in project


def test_actions_are_named_by_their_major_version():
    uses = [
        word
        for path in (ROOT / ".github/workflows").iterdir()
        for word in re.findall(r"uses: (\S+)", path.read_text())
    ]
    assert len(uses) > 8 and all(re.search(r"@(release/)?v\d+$", word) for word in uses)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_type_checkers_see_what_can_be_imported():
    """`diagd_cli` finds its names when they are used; beside that, the same names are imported for
    type checkers.
    """
    source = ast.parse((ROOT / "diagd_cli" / "__init__.py").read_text())
    [block] = [node for node in source.body if isinstance(node, ast.If)]
    seen = {(node.module, alias.name) for node in block.body for alias in node.names}
    assert seen == {
        (f"diagd_cli.{module}", name)
        for module, names in diagd_cli._PUBLIC.items()
        for name in names
    }

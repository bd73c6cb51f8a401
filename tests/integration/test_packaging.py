"""The package list, the command reference and the lazy front door stay in step with the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import tomllib

from asdic.cli.main import VERBS
from tests.conftest import REPOSITORY

PARTS = ("cli", "contract", "device", "firmware_bridge", "fleet", "quantization", "training")


def project() -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_listed_in_pyproject() -> None:
    found = {
        "asdic." + ".".join(init.parent.relative_to(REPOSITORY).parts)
        for part in PARTS
        for init in (REPOSITORY / part).rglob("__init__.py")
    }
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_every_python_file_lies_in_a_package() -> None:
    stray = [
        str(path.relative_to(REPOSITORY))
        for part in PARTS
        for path in (REPOSITORY / part).rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    ]
    assert stray == []


def test_the_command_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    # In a process of its own: click keeps on a command how it was called before.
    command = [sys.executable, "-m", "tests.support.cli_reference", tmp_path / "cli.md"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    said = (tmp_path / "cli.md").read_text()
    assert (REPOSITORY / "docs" / "cli.md").read_text() == said, "run `make docs`"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from asdic.cli.main import asdic;"
        "asdic.main(['--help'], standalone_mode=False);"
        "heavy = 'torch numpy cv2 starlette sqlalchemy httpx rich tuf'.split();"
        "print([module for module in heavy if module in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_verb_without_its_packages_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; sys.argv[1:] = ['status'];"
        "from asdic.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (
        1,
        "asdic: sqlalchemy is not installed; install `asdic[fleet]`\n",
    )


def test_every_verb_of_the_table_exists() -> None:
    files = {
        target.split(":")[0].removeprefix("asdic.").replace(".", "/") for target in VERBS.values()
    }
    assert [name for name in files if not (REPOSITORY / f"{name}.py").is_file()] == []


def test_no_file_names_a_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    pattern = re.compile(r"(index-url|find-links)[= ]+(https?|file):")
    guilty = [
        name
        for name in listed.stdout.split("\0")
        if name and (path := REPOSITORY / name).is_file() and pattern.search(_text(path))
    ]
    assert guilty == []


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="ignore")

"""README.md and two pages keep their word: Python blocks run, and commands of shell blocks exist.

A Python block runs in a namespace of its own, in a directory where `my_bundle` is a small exported
bundle and `article.txt` a text. Under `<!-- needs: weights from the hub -->` it is only compiled.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "from_pipeline.md", ROOT / "docs" / "from_keras_nlp.md")
NEEDS_HUB = "<!-- needs: weights from the hub -->"
PYTHON, SHELL = {"python"}, {"bash", "console", "sh", "shell"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the line of its first statement, and its text."""

    language: str
    line: int
    text: str
    needs_hub: bool = False

    def __str__(self) -> str:
        return f"line {self.line}"


def blocks_of(markdown: str) -> Iterator[Block]:
    """Every fenced block. A marker stands on the line above the fence, blank lines apart."""
    lines = markdown.splitlines()
    opened: tuple[str, str, int] | None = None  # fence, language, index of the first line inside
    for index, line in enumerate(lines):
        fence = re.match(r" {0,3}(```+|~~~+) *([\w-]*)", line)
        if opened is None and fence:
            opened = fence[1], fence[2].lower(), index + 1
        elif opened and line.strip() == opened[0]:
            _, language, start = opened
            above = next((text for text in reversed(lines[: start - 1]) if text.strip()), "")
            text = "\n".join(lines[start:index]) + "\n"
            yield Block(language, start + 1, text, above.strip() == NEEDS_HUB)
            opened = None
    if opened:
        raise ValueError(f"The block opened on line {opened[2]} is never closed.")


def commands_of(block: Block) -> Iterator[tuple[int, str]]:
    """Line number and text of each command; in a console block only what follows a `$`."""
    text = re.sub(r"\\\n", "  ", block.text)  # one line a command, whatever its continuations
    has_prompts = block.language == "console"
    for offset, line in enumerate(text.splitlines()):
        command = line.strip()
        if has_prompts and not command.startswith("$ "):
            continue
        command = command.removeprefix("$ ")
        if command and not command.startswith("#"):
            yield block.line + offset, command


def missing_from(command: str, extras: set[str], root: Path = ROOT) -> list[str]:
    """What a shell command names and the repository does not have."""
    missing = []
    for script in re.findall(r"(?<![\w/])(?:\./)?((?:scripts|\.ci)/[\w./-]+)", command):
        path = root / script
        runs_itself = not re.search(rf"(python[\d.]*|bash|sh) \S*{re.escape(script)}", command)
        if not path.is_file() or (runs_itself and not os.access(path, os.X_OK)):
            missing.append(script)
    for module in re.findall(r"-m (bart_onnx[\w.]*|exporters[\w.]*)", command):
        path = root / module.replace(".", "/")
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            missing.append(f"-m {module}")
    door = re.match(r"python -m (bart_onnx\.(?:generate|export)) (.*)", command)
    if door:
        parser = importlib.import_module(door[1])._parser()
        flags = re.findall(r"(?<!\S)--[a-z-]+", door[2])
        missing += [each for each in flags if each not in parser._option_string_actions]
    for group in re.findall(r"(?:bart_onnx|\.)\[([\w,]+)\]", command):
        missing += [f"[{extra}]" for extra in group.split(",") if extra not in extras]
    return missing


def _blocks(languages: set[str], pages: Sequence[Path] = PAGES) -> list[Any]:
    """Pages and their blocks, as parameters of a test."""
    return [
        pytest.param(page, block, id=f"{page.name}, {block}")
        for page in pages
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if block.language in languages
    ]


def _extras() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


def test_the_readme_has_examples() -> None:
    assert README.is_file(), "README.md is missing"
    assert _blocks(PYTHON, [README]), "README.md has no ```python block"
    assert _blocks(SHELL, [README]), "README.md has no ```bash or ```console block"


@pytest.mark.parametrize(("page", "block"), _blocks(PYTHON))
def test_python_block(
    page: Path,
    block: Block,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The blank lines put a traceback's numbers on the page's own lines.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    if block.needs_hub:
        pytest.skip("needs weights from the hub; it was only compiled")
    shutil.copytree(request.getfixturevalue("tiny_bundle"), tmp_path / "my_bundle")
    (tmp_path / "article.txt").write_text("A text that is long enough.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "block"), _blocks(SHELL))
def test_shell_block(page: Path, block: Block) -> None:
    extras = _extras()
    missing = [
        f"{page.name}:{line}: {name}"
        for line, command in commands_of(block)
        for name in missing_from(command, extras)
    ]
    assert not missing, "\n" + "\n".join(missing)


def test_blocks_are_found_with_their_lines_and_marks() -> None:
    markdown = (
        f"text\n```python\na\n```\n{NEEDS_HUB}\n\n```bash\nb \\\n  c\nd\n```\n````\n```\n````\n"
    )
    first, second, third = blocks_of(markdown)
    assert first == Block("python", 3, "a\n")
    assert second == Block("bash", 8, "b \\\n  c\nd\n", needs_hub=True)
    assert third.text == "```\n"
    with pytest.raises(ValueError, match="line 2 is never closed"):
        list(blocks_of("text\n```python\n"[:-1]))


def test_commands_are_found() -> None:
    shell = Block("bash", 10, "# a remark\n\nscripts/test -x\n")
    console = Block("console", 10, "$ one\nits output\n$ two\n")
    assert list(commands_of(shell)) == [(12, "scripts/test -x")]
    assert list(commands_of(console)) == [(10, "one"), (12, "two")]


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("scripts/test -k tokenizer", []),
        ("scripts/nowhere --fast", ["scripts/nowhere"]),
        ("cd x && ./scripts/nowhere", ["scripts/nowhere"]),
        ("bash scripts/environment.sh", []),
        ("scripts/environment.sh", ["scripts/environment.sh"]),
        ("python -m bart_onnx.config --help", []),
        ("python -m bart_onnx.nowhere", ["-m bart_onnx.nowhere"]),
        ("python -m bart_onnx.generate --preset x --fast", ["--fast"]),
        ('pip install -e ".[cpu,export]"', []),
        ("pip install 'bart_onnx[cpu,nowhere]'", ["[nowhere]"]),
    ],
)
def test_missing_command_is_named(command: str, missing: list[str]) -> None:
    assert missing_from(command, {"cpu", "export"}) == missing

"""What the pages say is there: links, files, commands, settings."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from m3h_pipeline.cli.main import main
from m3h_pipeline.config import Config

ROOT = Path(__file__).parents[2]
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "data_contracts/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Folders that a page may name a file of; others are a hospital's, or an out-folder's.
OURS = ("m3h_core", "m3h_pipeline", "data_contracts", "docs", "tests", "benchmarks")


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[str]:
    """Indented blocks, and fenced ones of commands or settings; those that are named after a file
    have own tests.
    """
    text = page.read_text()
    for language, block in re.findall(
        r"^```([^\n]*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE
    ):
        if language in ("", "sh", "bash", "console", "toml"):
            yield block
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE):
        yield re.sub(r"^    ", "", block, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub makes addresses of them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def count_clicks(start: Path) -> dict[str, int]:
    """How many links lead from a page to each file, with or without a heading of it."""
    clicks = {title(start): 0}
    pages = [start]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"https?://|mailto:|#", link):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve()
            address = f"{title(target)}#{anchor}" if anchor else title(target)
            clicks.setdefault(address, clicks[title(page)] + 1)
            if target.suffix == ".md" and target not in pages:
                clicks.setdefault(title(target), clicks[title(page)] + 1)
                pages.append(target)
    return clicks


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("m3h_core/model/attention.py", "class CrossTaskAttention"),
        ("m3h_pipeline/features/as_of.py", "def write_inputs"),
        ("docs/extending.md#a-task", "## A task"),
        ("docs/extending.md#an-encoder", "## An encoder"),
        ("m3h_core/ensemble/ridge_member.py", "class RidgeMember"),
        ("m3h_core/ensemble/mixing.py", "def choose_mixture"),
        ("m3h_core/training/trainer.py", "class Trainer"),
    ],
)
def test_a_newcomer_is_there_within_three_clicks(address, what):
    assert count_clicks(ROOT / "README.md")[address] <= 3
    assert what in (ROOT / address.partition("#")[0]).read_text()


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_file_that_is_named_is_there(page):
    for name in re.findall(rf"`((?:{'|'.join(OURS)})/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def command_lines(page: Path) -> Iterator[str]:
    """What stands behind ``m3h`` in blocks and between backticks, without comments."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"(?:^|[\s/])m3h( [a-z-].*)$", line.partition("#")[0].rstrip()):
                yield match[1]
    for line in re.findall(r"`m3h( [^`\n]*)`", page.read_text()):
        yield line


def parse(line: str) -> None:
    """As the command line does it, without running anything; options in [brackets] count as
    given.
    """
    arguments = shlex.split(re.sub(r"[\[\]]", "", line).replace("…", "why"))
    command: click.Command = main
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        assert name in command.commands, f"there is no m3h {name}"
        command = command.commands[name]
    if arguments:
        command.make_context("m3h", arguments)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_command_is_understood(page):
    for line in command_lines(page):
        try:
            parse(line)
        except click.exceptions.Exit:  # --help, --version
            pass
        except click.MissingParameter:  # a name in a sentence: `m3h forget`
            assert f"`m3h{line}`" in page.read_text(), line
        except click.ClickException as error:
            pytest.fail(f"m3h{line}: {error.format_message()}")


def commands(
    name: str = "m3h", command: click.Command = main
) -> Iterator[tuple[str, click.Command]]:
    """The whole tree of commands."""
    yield name, command
    if isinstance(command, click.Group):
        for below, part in command.commands.items():
            yield from commands(f"{name} {below}", part)


@pytest.mark.parametrize(("name", "command"), commands())
def test_help_teaches_by_an_example_that_is_understood(name, command):
    text = inspect.cleandoc(command.help or "")
    examples = re.findall(rf"^(?:Example: )?{name}( .*?)(?:  .*)?$", text, flags=re.MULTILINE)
    assert examples, command.help
    for line in examples:
        parse(name.removeprefix("m3h") + line)
    short = command.get_short_help_str(60)
    assert command is main or not short.endswith("..."), short


def test_commands_and_mistakes_in_them_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run\n\n    .venv/bin/m3h run --source demo   # now\n    m3h ui\n\nthen `m3h review "
        "list`.\n"
    )
    assert list(command_lines(page)) == [" run --source demo", " ui", " review list"]
    for wrong in (" run --sorce demo", " run --source oracle", " ui extra"):
        with pytest.raises(click.ClickException):
            parse(wrong)
    with pytest.raises(AssertionError):
        parse(" revew list")


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_target_of_make_is_there(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = [
        name
        for block in blocks(page)
        for name in re.findall(r"^make ([a-z]+)", block, flags=re.MULTILINE)
    ]
    assert set(named) | set(re.findall(r"`make ([a-z]+)`", page.read_text())) <= targets


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_setting_is_known_and_may_have_that_value(page):
    for block in blocks(page):
        if re.match(r"\s*\[\w", block):
            Config.model_validate(tomllib.loads(block))
    named = re.findall(r"`\[([a-z][a-z0-9.]*)\](?: ([a-z_]+))?[^`]*`", page.read_text())
    for section, key in named:
        model: type[BaseModel] = Config
        for name in section.split("."):
            assert name in model.model_fields, f"[{section}]"
            model = type(model.model_fields[name].default)
        assert not key or key in model.model_fields, f"[{section}] {key}"


def test_every_section_of_the_settings_is_explained_somewhere():
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in Config.model_fields if f"[{name}]" not in text] == []

"""Every command in the documentation is one that exists, with options that it has.

Commands in blocks are parsed by the real parsers, ours and nnU-Net's, without running anything. In running text they
may be cut short, so there only their names and options are looked at.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution

import pytest

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.cli import _parser
from nnunet_ext.cli.plans import _options
from nnunet_ext.errors import InputError
from nnunet_ext.planning import require_options
from tests.test_docs import PAGES, ROOT

OTHERS = {
    *("apptainer", "bash", "cd", "cp", "docker", "done", "export", "for", "git", "mkdir", "pip", "pytest", "python"),
    *("python3", "rattler-build", "source", "ssh", "tensorboard"),
}
"""Programs that are neither ours nor nnU-Net's."""

WRITTEN_BY_READERS = {"nnUNetTrainer", "nnUNetTrainerEntropy"}
"""Trainers beside ours: nnU-Net's own, and that of docs/own_trainer.md."""

ENTRIES = {entry.name: entry for entry in distribution("nnunetv2").entry_points if entry.group == "console_scripts"}
BLOCK = re.compile(r"^ *```(?:bash|sh|console)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:nnunet-ext|nnUNetv2_\w+)(?:\s[^`]*)?)`")


class _Asked(BaseException):
    """nnU-Net parses its command line here."""


@cache
def nnunets_parser(name: str) -> argparse.ArgumentParser:
    """The parser that a command of nnU-Net makes inside of its function; nothing behind it is reached."""
    patch = pytest.MonkeyPatch()
    found: list[argparse.ArgumentParser] = []

    def parse(parser, *_, **__):
        found.append(parser)
        raise _Asked

    with patch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parse)  # which parse_args calls
        with pytest.raises(_Asked):
            ENTRIES[name].load()()
    return found[0]


def simple_commands(block: str) -> Iterator[list[str]]:
    """Words of every command of a block, without comments, assignments before it, and what is around it."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        inner = re.findall(r"\$\(([^)]+)\)", line)
        lexer = shlex.shlex(line.replace("<this repository>", "ADDRESS"), posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if set(word) <= set("|;&"):
                while words and (words[0] == "do" or re.match(r"\w+=", words[0])):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)
        yield from (shlex.split(command) for command in inner)


def parsed(words: list[str]) -> None:
    """Raise an error unless a command exists and takes these arguments."""
    program, *arguments = words
    parser = _parser() if program == "nnunet-ext" else nnunets_parser(program)
    code: str | int | None = 0
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        code = end.code  # 0 after --help
    assert code == 0, " ".join(words)


def is_known(program: str) -> bool:
    return program == "nnunet-ext" or program in ENTRIES


def options_exist(words: list[str]) -> None:
    """Raise an error if a command that may be cut short names a subcommand or an option that does not exist."""
    program, *rest = words
    parser = _parser() if program == "nnunet-ext" else nnunets_parser(program)
    while groups := [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]:
        if not rest or rest[0].startswith("-") or rest[0] == "…":
            break
        alternatives = rest[:1]
        while rest[2 * len(alternatives) - 1 :][:1] == ["|"]:
            alternatives.append(rest[2 * len(alternatives)])
        for name in alternatives:
            assert name in groups[0].choices, f"{' '.join(words)}: {name}"
        parser, rest = groups[0].choices[rest[0]], rest[1:]
    for word in rest:
        if re.match(r"--?[a-zA-Z]", word):
            assert word.partition("=")[0] in parser._option_string_actions, f"{' '.join(words)}: {word}"


def names_exist(words: list[str]) -> None:
    """Raise an error if a trainer or an option of a method does not exist, or if an option cannot have its value."""
    text = " ".join(words)
    for name in re.findall(r"-tr (nnUNetTrainer\w*)", text):
        assert name.partition("_")[0] in {*TRAINERS, *WRITTEN_BY_READERS}, f"{text}: {name}"
    require_options(_options(re.findall(r"(?<=\s)[a-z]\w*\.[a-z]\w*=\S+", text)))


def files_exist(words: list[str]) -> None:
    """Raise an error if a script of this repository does not exist or does not have an option."""
    script = next((word for word in words[1:] if word.endswith((".py", ".def", "Dockerfile")) or "/run" in word), None)
    if words[1:2] == ["-m"] and words[2].partition(".")[0] == "benchmarks":
        script = f"{words[2].replace('.', '/')}/__main__.py"
    if script is None:
        return
    assert (ROOT / script).is_file(), " ".join(words)
    if script.startswith("benchmarks/"):
        for word in words:
            assert not re.fullmatch(r"--[a-z-]+", word) or f'"{word}"' in (ROOT / script).read_text(), (
                f"{words}: {word}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())
def test_every_command_exists_and_takes_its_arguments(page):
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        for words in simple_commands(block):
            places = [place for place, word in enumerate(words) if is_known(word)]
            if words[0] in OTHERS and words[:2] != ["docker", "run"]:
                places = [place for place in places if words[0] in {"apptainer"} and words[1] == "exec"]
            if places:
                ours = words[places[-1] :]
                (options_exist if "…" in ours else parsed)(ours)
            else:
                assert words[0] in OTHERS, " ".join(words)
                files_exist(words)
    for command in INLINE.findall(BLOCK.sub("", text)):
        words = command.replace("\\|", "|").split()
        assert is_known(words[0]), command
        options_exist(words)
        names_exist(words)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("nnunet-ext plans 4 --preset cpu --epoch-number 3", True),
        ("nnunet-ext plan 4", True),
        ("nnunet-ext plans 4 --epochs 3", False),
        ("nnUNetv2_train 4 3d_fullres 0 --trainer X", True),
        ("nnUNetv2_train 4 3d_fullres", True),
        ("nnUNetv2_train 4 3d_fullres 0 -tr X", False),
    ],
)
def test_what_does_not_exist_is_found(command, wrong, capsys):
    if not wrong:
        parsed(command.split())
        return
    with pytest.raises((AssertionError, SystemExit)):
        parsed(command.split())
    capsys.readouterr()


@pytest.mark.parametrize(
    "command", ["nnunet-ext plans 4 --option pnpnet.depth=3", "nnUNetv2_train 4 2d 0 -tr nnUNetTrainerPushNet"]
)
def test_names_that_do_not_exist_are_found(command):
    with pytest.raises((AssertionError, InputError)):
        names_exist(command.split())


def test_commands_in_blocks_are_found_whatever_is_around_them():
    block = """
export nnUNet_extTrainer="$(nnunet-ext path)"   # a comment
A=1 nnunet-ext plans 4 \\
    --epochs 3 && pytest | head
"""
    assert list(simple_commands(block)) == [
        ["export", "nnUNet_extTrainer=$(nnunet-ext path)"],
        ["nnunet-ext", "path"],
        ["nnunet-ext", "plans", "4", "--epochs", "3"],
        ["pytest"],
        ["head"],
    ]

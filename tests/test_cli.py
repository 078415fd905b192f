"""Behaviour that all commands have in common."""

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_ext import cli
from nnunet_ext.cli import CLOSED_PIPE, _parser, main
from nnunet_ext.cli.plans import _options
from nnunet_ext.errors import InputError


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from commands(command)


@pytest.mark.parametrize("command", list(commands(_parser())), ids=lambda command: command.prog.replace(" ", "-"))
def test_a_flag_that_is_given_twice_forgets_nothing(command):
    several = [action for action in command._actions if action.option_strings and action.nargs == "+"]
    forgetful = [action.option_strings for action in several if not isinstance(action, argparse._ExtendAction)]
    assert not forgetful
    # what is given would be added to these
    assert not [action.option_strings for action in several if action.default]


def test_options_of_plans_may_be_given_one_by_one_and_no_one_twice():
    line = ["plans", "4", "--option", "babloss.levels=4", "--option", "babloss.a_weight=0.3", "precision.cpu=bfloat16"]
    given = _parser().parse_args(line).option
    assert _options(given) == {"babloss": {"levels": 4, "a_weight": 0.3}, "precision": {"cpu": "bfloat16"}}
    with pytest.raises(InputError, match="is given twice"):
        _options([*given, "babloss.levels=8"])


def test_exponents_are_numbers_in_lists_and_tables_too():
    given = ["partial_labels.a=[1e-3, 2, [mean, 1e2]]", "partial_labels.b={x: 1e-3}", "partial_labels.c=1e-3"]
    assert _options(given) == {"partial_labels": {"a": [0.001, 2, ["mean", 100.0]], "b": {"x": 0.001}, "c": 0.001}}


# --- what is typed wrongly --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["landmarks"], ["benchmark"], ["s2v"], ["scribbles"]])
def test_without_a_command_the_help_is_printed(command, capsys):
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: {' '.join(['nnunet-ext', *command])} [-h]")
    assert "COMMAND" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        ("evaluate a b --foo", "nnunet-ext evaluate"),
        ("splits --foo 4", "nnunet-ext splits"),
        ("landmarks check 4 --foo", "nnunet-ext landmarks check"),
        ("scribbles generate 38 --out 138 --new-dataset 138", "nnunet-ext scribbles generate"),
        ("plans 4 --out low", "nnunet-ext plans"),
        ("--foo", "nnunet-ext"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_usage_of_its_command(line, usage, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"usage: {usage} [-h]")
    flag = re.search(r"--foo|--out \w+", line)
    assert shown.endswith(f"{usage}: error: unrecognized arguments: {flag[0]}\n")


# --- nnU-Net's habits -------------------------------------------------------------------------------------------------

HABITS: dict[str, dict[str, object]] = {
    "export -d 4 -c 2d -tr T -p P -f 0 all -chk a.pth -o m.zip": {
        "dataset": "4",
        "configuration": "2d",
        "trainer": "T",
        "plans": "P",
        "folds": ["0", "all"],
        "checkpoints": ["a.pth"],
        "out": "m.zip",
    },
    "export MODEL -o m.zip": {"model": "MODEL", "dataset": None, "out": "m.zip"},
    "plans -d 4 -c 2d 3d_lowres -p P --name low": {
        "dataset": "4",
        "configuration": ["2d", "3d_lowres"],
        "plans": "P",
        "name": "low",
    },
    "evaluate a b -djfile d -pfile p -np 2 -o out": {"dataset_json": "d", "plans": "p", "processes": 2, "out": "out"},
    "scribbles generate -d 38 -np 2 --new-dataset 138": {"dataset": "38", "processes": 2, "new_dataset": "138"},
    "scribbles check -d 138 -p P -np 2 -o out": {"dataset": "138", "plans": "P", "processes": 2, "out": "out"},
    "landmarks check -d 204 -np 2 -o out": {"dataset": "204", "processes": 2, "out": "out"},
    "landmarks evaluate a b -djfile d -np 2 -o out": {"dataset_json": "d", "processes": 2, "out": "out"},
    "landmarks pseudo-label -d 204 -np 2 --new-dataset 304": {"dataset": "204", "processes": 2, "new_dataset": "304"},
    "landmarks derive -d 27 -np 2 --new-dataset 227 --segmented 8 --labels RV --labels LV": {
        "dataset": "27",
        "processes": 2,
        "new_dataset": "227",
        "labels": ["RV", "LV"],
    },
    "landmarks from-masks p -d 227 -np 2 -o out": {"masks": "p", "dataset": "227", "processes": 2, "out": "out"},
    "splits -d 4 -np 2 -o s.json": {"dataset": "4", "processes": 2, "out": "s.json"},
    "unlabelled -d 27 -p P -c 2d 3d_fullres -np 2 --images new": {
        "dataset": "27",
        "plans": "P",
        "configuration": ["2d", "3d_fullres"],
        "images": "new",
        "processes": 2,
    },
    "benchmark run low-acdc -o folder --only A --only B": {"folder": "folder", "only": ["A", "B"]},
    "benchmark report --from-results a b -f 0 1 -o out": {"from_results": ["a", "b"], "folds": [0, 1], "out": "out"},
    "demo -d 4 -device cpu -o folder": {"dataset": "4", "device": "cpu", "folder": "folder"},
}


@pytest.mark.parametrize("line", HABITS)
def test_the_spellings_of_nnunet_are_understood(line):
    given = vars(_parser().parse_args(line.split()))
    assert {name: given[name] for name in HABITS[line]} == HABITS[line]


@pytest.mark.parametrize(
    "line", ["splits 4 --by pairs", "splits --by pairs 4", "splits --by pairs -d 4", "splits -d 4 --by pairs"]
)
def test_words_and_flags_may_be_mixed(line):
    given = _parser().parse_args(line.split())
    assert (given.dataset, given.by) == ("4", "pairs")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("splits --by pairs", "the following arguments are required: DATASET"),
        ("splits 4 -d 5", "argument -d: '5' comes after '4'; give one of them"),
        ("splits -d 5 4", "argument DATASET: '4' comes after '5'; give one of them"),
        ("splits -d 4 -d 5", "argument -d: '5' comes after '4'; give one of them"),
        ("export MODEL -d 4 -o x.zip", "argument -d: '4' comes after 'MODEL'; give one of them"),
        ("export -o x.zip", "the following arguments are required: RESULT_FOLDER"),
    ],
)
def test_a_word_is_given_once_as_a_word_or_as_a_flag(line, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{sentence}\n")


def test_of_two_names_of_a_model_none_is_taken(capsys):
    assert main(["export", "-d", "4", "MODEL", "-o", "x.zip"]) == 2
    assert capsys.readouterr().err == (
        "nnunet-ext: Which model? Give RESULT_FOLDER, or -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS, not both.\n"
    )


def test_half_a_name_of_a_model_is_told_what_else_this_command_takes(capsys):
    assert main(["export", "-d", "4", "-o", "x.zip"]) == 2
    assert capsys.readouterr().err.endswith("-tr TRAINER -p PLANS, or RESULT_FOLDER.\n")
    assert main(["landmarks", "predict", "-d", "4", "-i", "a", "-o", "b"]) == 2
    assert capsys.readouterr().err.endswith("-tr TRAINER -p PLANS, or -m MODEL_FOLDER.\n")


def test_the_file_that_nnunet_would_write_is_not_taken_for_a_folder(tmp_path, capsys):
    assert main(["evaluate", "a", "b", "-o", str(tmp_path / "summary.json")]) == 2
    assert capsys.readouterr().err.startswith(f"nnunet-ext: -o {tmp_path / 'summary.json'} is a folder here")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate a b", "landmarks predict -i a -m b", "s2v predict -i a -m b"])
def test_a_file_is_no_folder_to_write_results_to(command, tmp_path, capsys):
    (tmp_path / "table.csv").touch()
    assert main([*command.split(), "-o", str(tmp_path / "table.csv")]) == 2
    assert "table.csv is a file, but a folder to write to is expected" in capsys.readouterr().err


WRITES = [
    "evaluate a b -o OUT",
    "scribbles check 38 -o OUT",
    "landmarks check 38 -o OUT",
    "landmarks convert a.csv --to csv -o OUT",
    "landmarks from-masks a -d 38 -o OUT",
    "landmarks evaluate a b -o OUT",
    "landmarks predict -i a -m b -o OUT",
    "s2v predict -i a -m b -o OUT",
    "s2v evaluate-clicks -i a -r b -m c -o OUT",
    "benchmark run cpu-smoke -o OUT",
    "benchmark report --from-results a -o OUT",
    "demo -o OUT",
]
"""Commands that write into a folder. None of their inputs exists, so the folder has to be checked first."""


@pytest.mark.parametrize("line", WRITES)
def test_a_folder_that_must_not_be_written_to_is_refused_before_any_work(line, tmp_path, monkeypatch, capsys):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    assert main(line.replace("OUT", str(tmp_path / "out")).split()) == 2
    assert capsys.readouterr().err.startswith(f"nnunet-ext: You must not write in {tmp_path}; choose another folder")


def test_what_the_system_refuses_is_one_sentence_and_other_errors_keep_their_traceback(monkeypatch, capsys):
    def fails(error):
        def run(*_, **__):
            raise error

        monkeypatch.setattr("nnunet_ext.planning.write_plans", run)

    fails(PermissionError(13, "Permission denied", "/a/plans.json"))
    assert main(["plans", "4"]) == 2
    assert capsys.readouterr().err == (
        "nnunet-ext: /a/plans.json is refused by the system (Permission denied); choose another place, or allow it.\n"
    )
    fails(FileNotFoundError(2, "No such file", "/a/b"))
    with pytest.raises(FileNotFoundError):
        main(["plans", "4"])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("report FOLDER --folds 0", "--reference and --folds are for --from-results"),
        ("report FOLDER --reference labels", "--reference and --folds are for --from-results"),
        ("run cpu-smoke --parameter slurm_partition=gpu", "--parameter is for submitit"),
    ],
)
def test_options_of_a_benchmark_that_would_do_nothing_are_refused(line, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *line.split()]) == 2
    assert capsys.readouterr().err.startswith(f"nnunet-ext: {sentence}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", list(commands(_parser())), ids=lambda command: command.prog.replace(" ", "-"))
def test_out_is_a_path_everywhere(command):
    for action in command._actions:
        if {"-o", "--out"} & set(action.option_strings):
            assert {"FILE", "FOLDER", "ZIP"} & set(re.split(r"\W+", action.metavar or action.dest.upper()))


# --- terminals and pipes ----------------------------------------------------------------------------------------------


def test_what_the_encoding_of_a_terminal_lacks_is_escaped(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="cp1252"))
    monkeypatch.setattr(cli.install, "_path", lambda arguments: print("Größe ≤ 4 mm in /data/\udcff"))
    assert main(["path"]) == 0
    assert shown.getvalue().decode("cp1252") == "Größe \\u2264 4 mm in /data/\\udcff\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "line", ["benchmark list", "trainers --all", "landmarks pseudo-label --help", "evaluate no folder"]
)
def test_a_closed_pipe_is_quiet(line, unbuffered):
    """As in ``nnunet-ext … 2>&1 | head -1``, with the reader gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "nnunet_ext", *line.split()]
    refused = line.startswith("evaluate")  # its sentence goes to stderr, which is closed in its place
    pipes = {"stdout": subprocess.PIPE, "stderr": write} if refused else {"stdout": write, "stderr": subprocess.PIPE}
    ended = subprocess.run(command, env=environment, check=False, cwd=Path(__file__).parent.parent, **pipes)
    os.close(write)
    assert not (ended.stdout or b"").strip()
    assert not (ended.stderr or b"").strip()
    # argparse itself does not mind that nobody reads its help
    assert ended.returncode == CLOSED_PIPE or (unbuffered and line.endswith("--help"))


def test_a_pipe_that_breaks_inside_of_a_command_is_no_end_in_silence(monkeypatch):
    def broken(arguments):
        raise BrokenPipeError("to a worker")

    monkeypatch.setattr(cli.install, "_path", broken)
    with pytest.raises(BrokenPipeError, match="to a worker"):
        main(["path"])

"""What all commands have in common."""

import argparse
from collections.abc import Iterator

import pytest

from nnunet_ext.cli import _parser
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

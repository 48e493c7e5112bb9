"""The docstring of `errors` draws the tree of errors, and the command line prints an error in one line."""

from __future__ import annotations

import re

import pytest

from streamser import errors
from streamser.cli import main
from streamser.errors import BundleError, MissingExtraError, StreamserError

CHILDREN = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, StreamserError)}


def test_the_tree_in_the_docstring_names_every_error_and_no_other() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"StreamserError"}
    assert drawn == {cls.__name__ for cls in CHILDREN}


@pytest.mark.parametrize("cls", sorted(CHILDREN - {StreamserError}, key=lambda cls: cls.__name__))
def test_every_error_has_only_streamser_error_as_its_base(cls: type[StreamserError]) -> None:
    assert cls.__bases__ == (StreamserError,)
    assert StreamserError.__bases__ == (Exception,)
    assert cls.__doc__ and cls.__doc__.endswith(".")


def test_the_error_of_a_missing_extra_has_the_command_that_installs_it() -> None:
    error = MissingExtraError("training", "torch")
    assert str(error) == "training needs the extra 'torch': pip install 'streamser[torch]'"
    assert error.extra == "torch"


def test_the_command_line_prints_an_error_in_one_line_and_exits_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "no-such-model"]) == 1
    message = capsys.readouterr()
    assert message.out == ""
    assert re.fullmatch(r"streamser: no checkpoint is named 'no-such-model'; .*\n", message.err)


def test_with_debug_the_command_line_raises_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError):
        main(["--debug", "models", "no-such-model"])

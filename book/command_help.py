"""Insert the help text of a command: the directive `{command-help}`, from a Sphinx extension that `_config.yml` names.

The page *Command line* names each command once; the text comes from the parser when the book is built.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive

COLUMNS = "84"  # columns that fit the page


def help_text(command: str) -> str:
    """The output of `command --help`, as in `help_text("gdino detect")` or `help_text("python -m data_prep audit")`.

    Raises:
        ValueError: the command is neither `gdino` nor `python -m data_prep`, or has no such sub-command.
    """
    from data_prep.__main__ import main as data_prep
    from gdino_lib.cli.main import main as gdino

    for program, main in {"gdino": gdino, "python -m data_prep": data_prep}.items():
        name = command.removeprefix(program)
        if name == command:
            continue
        printed = io.StringIO()
        with (
            mock.patch.dict(os.environ, COLUMNS=COLUMNS),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            contextlib.suppress(SystemExit),
        ):
            main([*name.split(), "--help"])
        if printed.getvalue().startswith(f"usage: {command}"):
            return printed.getvalue()
    raise ValueError(f"expected a command of gdino or python -m data_prep, got {command!r}")


def command_names(program: str) -> list[str]:
    """The sub-commands of a program, in the order of `program --help`."""
    return re.findall(r"^    ([a-z][a-z-]+)", help_text(program), re.MULTILINE)


class CommandHelp(Directive):
    """The directive; its argument is the command."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the help as a literal block."""
        text = help_text(self.arguments[0])
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The argument parser of `data_prep` and `gdino_lib`, whose errors are one line, and texts that are safe to print."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn


def printable(text: object) -> str:
    """`text` with escapes for all characters that are not printable, so that it is safe to print on a terminal.

    Names in other people's files may have control characters, escape sequences and marks that change the direction of
    writing. These become, for example, "\\x1b" and "\\u202e".
    """
    characters = str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in characters)


def one_line(message: object) -> str:
    """The text of a message or an error in one line, safe to print on a terminal."""
    return printable(" ".join(str(message).split()))


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun: "1 box", "2 boxes"."""
    return f"{count} {one if count == 1 else many}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with a suggestion. Options must be spelled in full.

    A command may set a default `advice`, a function (parsed options, text of the unexpected arguments) -> text. The text is
    appended to the message about unexpected arguments.

    Attributes:
        aliases: {name of an option in other tools: our name}.
    """

    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments as argparse does, but refuse unknown arguments instead of returning them."""
        args = sys.argv[1:] if args is None else list(args)
        self._check_names(args)
        try:
            options, others = super().parse_known_args(args, namespace)
        except ValueError:
            self.error("expected a value, got '--'")
        values = vars(options).values()  # older versions of argparse parse "--nms=--" as []
        if any(value == [] or (isinstance(value, list) and [] in value) for value in values):
            self.error("expected a value, got '--'")
        if others:
            rest = " ".join(others)
            advice = getattr(options, "advice", None)
            self.error(f"unexpected arguments: {rest}{advice(options, rest) if advice else ''}")
        return options, others

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"error: {one_line(message)}; see {self.prog} --help\n")

    def _check_names(self, args: list[str]) -> None:
        """Refuse unknown options and commands, before argparse complains about missing arguments."""
        for text in args:
            if text == "--":
                return  # no options after "--"
            if self._subparsers and not text.startswith("-"):
                commands = self._commands()
                if text not in commands:
                    near = difflib.get_close_matches(text, commands)
                    self.error(f"unknown command {text}{_hint(near) or '; expected one of ' + ', '.join(commands)}")
                return  # the parser of the command checks the rest
            name = text.partition("=")[0]
            if not text.startswith("--") or " " in text or name in self._option_string_actions:
                continue
            near = difflib.get_close_matches(name, self._option_string_actions)
            if self.aliases.get(name) in self._option_string_actions:
                near = [self.aliases[name]]
            self.error(f"unknown option {name}{_hint(near)}")

    def _commands(self) -> list[str]:
        actions = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return [name for action in actions for name in action.choices]


def _hint(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}" if names else ""

"""The command lines of `data_prep` and `gdino_lib` say in one line what is wrong with their arguments."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn


def printable(text: object) -> str:
    """A text that a terminal may show: signs that steer it, or that nobody sees, are escaped.

    Control characters, escape sequences and marks of the direction of writing come from names in other people's files. They
    become "\\x1b", "\\u202e".
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))


def one_line(message: object) -> str:
    """The text of a message or an error, without line breaks, as a terminal may show it."""
    return printable(" ".join(str(message).split()))


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, and what may be meant; options are spelled in full.

    A command may set a default `advice`, a function (options understood, arguments without a place) -> text: it is put
    behind the message that names these arguments.

    Attributes:
        aliases: {name that other tools have for an option: our name}.
    """

    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse's, but nothing is left unknown."""
        args = sys.argv[1:] if args is None else list(args)
        self._check_names(args)
        try:
            options, others = super().parse_known_args(args, namespace)
        except ValueError:
            self.error("'--' is no value")
        values = vars(options).values()  # older versions of argparse make [] of "--nms=--"
        if any(value == [] or (isinstance(value, list) and [] in value) for value in values):
            self.error("'--' is no value")
        if others:
            rest = " ".join(others)
            advice = getattr(options, "advice", None)
            self.error(f"unexpected: {rest}{advice(options, rest) if advice else ''}")
        return options, others

    def error(self, message: str) -> NoReturn:
        """One line, and exit status 2."""
        self.exit(2, f"error: {one_line(message)}; {self.prog} --help says more\n")

    def _check_names(self, args: list[str]) -> None:
        """Refuse unknown options and commands before argparse asks for those that it misses."""
        for text in args:
            if text == "--":
                return  # what follows is no option
            if self._subparsers and not text.startswith("-"):
                commands = self._commands()
                if text not in commands:
                    near = difflib.get_close_matches(text, commands)
                    self.error(f"unknown command {text}{_hint(near) or '; expected one of ' + ', '.join(commands)}")
                return  # what follows is the command's
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

"""The parser of the program `gdino`, built from its commands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import ClassVar

from data_prep.arguments import Parser
from gdino_lib import __version__
from gdino_lib.cli import build_ops, check, convert, detect, edit, eval, export, merge, scenes, train

# each module has HELP, DESCRIPTION, add_options(parser) and run(options), and may have EPILOG
COMMANDS = (detect, edit, convert, export, build_ops, train, check, eval, merge, scenes)


class CommandParser(Parser):
    """A parser that suggests our options for the option names of other tools."""

    aliases: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("--caption", "--classes", "--labels", "--prompt", "--prompts", "--text-prompt"), "--phrases"),
        **dict.fromkeys(("--checkpoint", "--weights"), "--model"),
        **dict.fromkeys(("--iou", "--iou-threshold"), "--nms"),
    }


def build_parser() -> argparse.ArgumentParser:
    """Build the parser. The options that it returns have an attribute `run`, the function of the chosen command."""
    parser = CommandParser(prog="gdino", description="Grounding DINO: detect the objects that phrases name.")
    parser.add_argument("--version", action="version", version=f"gdino {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        epilog = getattr(module, "EPILOG", None)
        command = commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION, epilog=epilog)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser

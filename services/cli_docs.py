"""Writes docs/cli.md from the commands: `python -m services.cli_docs > docs/cli.md`. Knows no command."""

from typing import Any

import typer.main

from services.cli import app

HEAD = """# The command line

Made by `python -m services.cli_docs`; a test holds it against the commands. Exit codes: 0 done, 1 failed or
something is wrong, 2 wrong usage, 130 interrupted. An error names its code, causes and remedy on stderr.
"""
WIDTH = 100


def page() -> str:
    """Every command with its help, as Markdown."""
    return "\n".join([HEAD, *_sections(typer.main.get_command(app), None, "computepool")])


def _sections(command: Any, parent: Any, name: str) -> list[str]:
    """Typer carries a click of its own, so these are its types, named by nobody."""
    context = command.context_class(
        command,
        parent=parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    found = [f"## `{context.command_path}`\n\n```\n{text}\n```\n"]
    for inner_name, inner in getattr(command, "commands", {}).items():
        found += _sections(inner, context, inner_name)
    return found


if __name__ == "__main__":
    print(page(), end="")

"""What has a name outside the code stands in `docs/`: settings, commands, codes, events; links resolve."""

import re
from collections.abc import Iterator

import typer

from events.envelope import EVENT_CLASSES
from services.cli import app
from services.code_docs import codes, page
from services.settings import Settings
from services.stack.node import ROOT
from services.stack.stack import role_environment, variable
from tests.arch.test_house import tracked

PAGES = [path for path in tracked() if path.suffix == ".md" and path.parts[0] in ("docs", "README.md")]


def pages() -> str:
    return "\n".join((ROOT / path).read_text() for path in PAGES)


def absent(names: set[str]) -> list[str]:
    text = pages()
    return sorted(name for name in names if not re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", text))


def commands(group: typer.Typer, before: str = "computepool") -> Iterator[str]:
    from typer.main import get_command

    def walk(command: object, name: str) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if not inner:
            yield name
            return
        for key, child in inner.items():
            yield from walk(child, f"{name} {key}")

    yield from walk(get_command(group), before)


def test_every_setting_is_explained() -> None:
    names = {variable(name, field) for name, field in Settings.model_fields.items()}
    assert set(role_environment(Settings())) <= names
    assert not absent(names)


def test_every_command_is_explained() -> None:
    found = set(commands(app))
    assert len(found) > 15
    assert not absent(found)


def test_the_page_of_error_codes_is_fresh() -> None:
    assert len(list(codes())) > 60
    assert (ROOT / "docs" / "codes.md").read_text() == page()


def test_every_error_says_what_it_means() -> None:
    assert not [item for item in codes() if len(item.meaning) < 20]


def test_every_event_type_is_explained() -> None:
    assert not absent(set(EVENT_CLASSES))


def test_links_between_pages_resolve() -> None:
    broken = []
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / path).read_text()):
            if "://" not in target and not (ROOT / path.parent / target).exists():
                broken.append(f"{path}: {target}")
    assert not broken

"""A file that says what is to be otherwise in ``simulate --what-if``: fields of the policy, and shares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import msgspec
from msgspec.structs import replace

from horizon.api import wire
from horizon.cli import exits
from horizon.cli.exits import CliError
from horizon.cli.policy import parse
from horizon.core.policy import UNLIMITED, Policy
from horizon.service.supposition import SupposedShare

_SHARE_FIELDS: Final = ("weight", "max_gpus", "guaranteed_gpus")


def read_supposition(path: Path) -> tuple[dict[str, Any], dict[str, SupposedShare]]:
    """The fields of the policy and the shares in a file. ``CliError`` with its line and the field."""
    return _File(path).read()


class _File:
    """The text of a file, so that every fault can be told with its line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._text = path.read_text()
        except OSError as error:
            raise CliError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CliError(f"{path} is no TOML: it is not UTF-8", exits.USAGE) from error

    def read(self) -> tuple[dict[str, Any], dict[str, SupposedShare]]:
        try:
            found = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise CliError(f"{self._path} is no TOML: {error}", exits.USAGE) from error
        shares = found.pop("shares", {})
        if not isinstance(shares, dict):
            self._fault("must be tables such as [shares.research]", "shares")
        policy = {field: self._choice(field, value) for field, value in found.items()}
        for field, fault in replace(Policy(), **policy).faults():
            self._fault(fault, field)
        return policy, {share: self._share(share, fields) for share, fields in shares.items()}

    def _choice(self, field: str, value: Any) -> Any:
        """As `horizon policy set --file` takes it."""
        try:
            chosen = parse(field, value)
        except click.UsageError as error:
            self._fault(error.message.removeprefix(f"{field}: "), field)
        types = {one.name: one.type for one in msgspec.structs.fields(wire.PolicyChange)}
        chosen = self._converted(chosen, types[field], field)
        return tuple(chosen) if field == "topology_labels" else chosen

    def _share(self, share: str, fields: Any) -> SupposedShare:
        if not isinstance(fields, dict) or not fields:
            self._fault(f"must give some of {', '.join(_SHARE_FIELDS)}", "shares", share)
        types = {one.name: one.type for one in msgspec.structs.fields(wire.ShareChange)}
        chosen: dict[str, int] = {}
        for field, value in fields.items():
            if field not in _SHARE_FIELDS:
                message = f"is nothing a share has; write {', '.join(_SHARE_FIELDS)} (paths in quotes)"
                self._fault(message, "shares", share, field)
            unbound = field == "max_gpus" and value in ("none", UNLIMITED)
            chosen[field] = (
                UNLIMITED if unbound else self._converted(value, types[field], "shares", share, field)
            )
        return SupposedShare(**chosen)

    def _converted(self, value: Any, kind: Any, *place: str) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self._fault(str(error), *place)

    def _fault(self, what: str, *place: str) -> NoReturn:
        raise CliError(f"{self._path}:{self._line_of(place)}: {'.'.join(place)}: {what}", exits.USAGE)

    def _line_of(self, place: tuple[str, ...]) -> int:
        """The line where the last name of a place stands behind those before it."""
        names, line = list(place), 1
        for number, text in enumerate(self._text.splitlines(), 1):
            text = text.partition("#")[0]
            if re.search(rf"(?<![\w-]){re.escape(names[0])}(?![\w-])", text):
                line = number
                names = [name for name in names[1:] if name not in text.partition("=")[0]]
                if not names:
                    break
        return line

"""Finds everything that is wrong with a body, and where. Runs only once a request is known to be bad.

msgspec stops at the first fault; a person wants them all, each with an RFC 6901 pointer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from horizon.api.problems import FAULTS_MAX, Fault, Problem, invalid, malformed

_STUDIED_BYTES_MAX: Final = 8 * 1024 * 1024
"""A larger body is told its first fault only: to study it would keep everybody else waiting."""
_ECHO_MAX: Final = 64
"""Characters of what was sent that are sent back."""
_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_LONE_SURROGATE: Final = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F])"
)


def clipped(text: str) -> str:
    """What a client sent, short enough to send back."""
    return text if len(text) <= _ECHO_MAX else text[:_ECHO_MAX] + "…"


def pointer(*tokens: str | int) -> str:
    """An RFC 6901 pointer: ``/jobs/3/labels/a~1b``."""
    return "".join("/" + clipped(str(token)).replace("~", "~0").replace("/", "~1") for token in tokens)


# --- not JSON -----------------------------------------------------------------------------------------


def unreadable(body: bytes, error: Exception) -> Problem:
    """400 for a body that is not JSON, saying where it stops being JSON."""
    if not body.strip():
        return malformed("the request has no body: send a JSON object")
    if isinstance(error, RecursionError):
        return malformed("the JSON is nested too deeply")
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return malformed(f"malformed JSON: the text is not UTF-8, at byte {fault.start}")
    surrogate = _LONE_SURROGATE.search(body, 0, _STUDIED_BYTES_MAX)
    if surrogate is not None:
        return malformed(f"malformed JSON: a lone half of a surrogate pair before byte {surrogate.end()}")
    what = str(error).removeprefix("JSON is malformed: ")
    if "truncated" in what:
        what = f"it ends too early (byte {len(body)})"
    return malformed(f"malformed JSON: {what}")


# --- JSON, but not what was asked for -----------------------------------------------------------------


def mistaken(body: bytes, expected: type[Struct], error: msgspec.ValidationError) -> Problem:
    """422 naming every fault in a body that msgspec refused; 400 when the rest of it is not even JSON."""
    if len(body) > _STUDIED_BYTES_MAX:
        return invalid([_fault_of(error, "")])
    try:
        raw = msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number that no type can hold
        return invalid([_fault_of(error, "")])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as deeper:
        return unreadable(body, deeper)
    found = []
    for fault in _object_faults(raw, expected, ""):
        found.append(fault)
        if len(found) == FAULTS_MAX:
            break
    return invalid(found or [_fault_of(error, "")])


def _object_faults(raw: Any, expected: type[Struct], at: str) -> Iterator[Fault]:
    if not isinstance(raw, dict):
        yield from _value_faults(raw, expected, at)
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(expected)}
    for name in raw:
        if name not in fields:
            yield Fault(f"unknown field {clipped(name)!r}", at + pointer(name))
    for name, field in fields.items():
        if name in raw:
            yield from _value_faults(raw[name], field.type, at + pointer(name))
        elif field.required:
            yield Fault("is required", at + pointer(name))


def _value_faults(raw: Any, expected: Any, at: str) -> Iterator[Fault]:
    try:
        msgspec.convert(raw, expected)
    except msgspec.ValidationError as error:
        inside = _element_faults(raw, expected, at)
        yield next(inside, None) or _with_choices(_fault_of(error, at), expected)
        yield from inside


def _with_choices(fault: Fault, expected: Any) -> Fault:
    """For a value that is none of an enum's: what there is."""
    if not fault.detail.startswith("Invalid enum value"):
        return fault
    kinds = [kind for kind in (expected, *get_args(expected)) if isinstance(kind, type)]
    values = [str(choice.value) for kind in kinds if issubclass(kind, Enum) for choice in kind]
    return Fault(f"{fault.detail}; there are {', '.join(values)}", fault.pointer)


def _element_faults(raw: Any, expected: Any, at: str) -> Iterator[Fault]:
    """What is wrong with the elements of a list or the values of an object: msgspec names one, or none."""
    if not isinstance(raw, list | dict):
        return
    element = _element_type(expected, type(raw))
    if element is None:
        return
    for key, one in raw.items() if isinstance(raw, dict) else enumerate(raw):
        if isinstance(element, type) and issubclass(element, Struct):
            yield from _struct_faults(one, element, at + pointer(key))
        else:
            yield from _value_faults(one, element, at + pointer(key))


def _struct_faults(raw: Any, expected: type[Struct], at: str) -> Iterator[Fault]:
    try:
        msgspec.convert(raw, expected)
    except msgspec.ValidationError:
        yield from _object_faults(raw, expected, at)


def _element_type(expected: Any, container: type) -> Any:
    """What a list, or an object as a dict, of this type holds; None when it can be none."""
    if hasattr(expected, "__metadata__"):
        return _element_type(expected.__origin__, container)
    if get_origin(expected) is container:
        return get_args(expected)[-1]
    choices = get_args(expected) if get_origin(expected) in (Union, UnionType) else ()
    found = (_element_type(choice, container) for choice in choices)
    return next((one for one in found if one is not None), None)


def _fault_of(error: msgspec.ValidationError, at: str) -> Fault:
    """msgspec's words without its path, and the path as a pointer."""
    match = _AT.match(str(error))
    assert match is not None
    path = match["path"] or "$"
    tokens = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path)
    return Fault(match["what"], at + pointer(*(name or index for name, index in tokens)))


# --- what msgspec lets pass ---------------------------------------------------------------------------


def nul_faults(value: Any, at: str = "") -> Iterator[Fault]:
    """Every string with a NUL in it: no process can be given one."""
    if isinstance(value, str):
        if "\0" in value:
            yield Fault("has a NUL character in it", at)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from nul_faults(one, f"{at}/{index}")
    elif isinstance(value, dict):
        for key, one in value.items():
            if "\0" in key:
                yield Fault("has a NUL character in its name", at + pointer(key))
            yield from nul_faults(one, at + pointer(key))


def duplicate_faults(body: bytes) -> list[Fault]:
    """Every name given twice in one object. Only for a body that msgspec could read: it bounds the depth."""
    found: list[Fault] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                found.append(Fault(f"{clipped(name)!r} is given twice in one object"))
            seen.add(name)

    json.loads(body, object_pairs_hook=look)
    return found

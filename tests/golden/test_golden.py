"""What any version of Horizon wrote is read by this one: it holds, and it folds to what it always did."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import horizon
from horizon import auditor
from horizon.core import events as ev
from horizon.core.audit import fault
from horizon.core.evolve import evolve
from horizon.core.rerun import Rerun
from horizon.core.sentences import sentence
from horizon.core.state import State
from horizon.store import codec
from horizon.store.port import GENESIS_HASH
from tests.golden import make

LOGS: Final = sorted(make.HERE.glob("*.jsonl.gz"))


def events(log: Path) -> Iterator[ev.Recorded]:
    """Those of a golden log, along the chain, as a store gives them."""
    previous = GENESIS_HASH
    for position, line in enumerate(lines(log), 1):
        fields = {name: line[name] for name in ev.Stored.__struct_fields__}
        fields |= {name: bytes.fromhex(line[name]) for name in ("command_id", "correlation_id", "hash")}
        fields["payload"] = line["payload"].encode()
        event = codec.open_payload(position, line["type"], line["schema_version"], fields["payload"])
        recorded = ev.Recorded(**fields, event=event)
        codec.check_link(recorded, position, previous)
        previous = recorded.hash
        yield recorded


def lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in gzip.decompress(log.read_bytes()).splitlines():
        one = json.loads(line)
        if "position" in one:
            yield one


def differences(recorded: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where something that was so is not so any more; what was not asked about then does not matter."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name, value in recorded.items():
            yield from differences(value, now.get(name), f"{where}/{name}")
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for index, (one, other) in enumerate(zip(recorded, now, strict=True)):
            yield from differences(one, other, f"{where}/{index}")
    elif recorded != now:
        yield f"{where} was {recorded} and is {now}"


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_a_golden_log_holds_and_folds_to_what_it_always_did(log: Path) -> None:
    state, rerun = State(), Rerun()
    for recorded in events(log):
        assert fault(state, recorded) is None, recorded.position
        assert rerun.see(state, recorded) == [], recorded.position
        evolve(state, recorded)
        assert sentence(state, recorded)
    assert rerun.end(state) == []
    facts = json.loads(gzip.decompress(log.with_name(log.name.replace("jsonl", "facts.json")).read_bytes()))
    assert list(differences(facts, json.loads(json.dumps(make.facts(state))))) == []
    assert rerun.cycles + sum(rerun.others.values()) > 30


def test_the_decisions_of_this_version_are_those_of_its_golden_log() -> None:
    """If not, raise ``DECISIONS``, and make the golden log anew if its version has not been released."""
    state, rerun = State(), Rerun()
    for recorded in events(make.HERE / f"{horizon.__version__}.jsonl.gz"):
        rerun.see(state, recorded)
        evolve(state, recorded)
    assert rerun.cycles > 30
    assert (rerun.differing, rerun.others) == (0, {})


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_the_auditor_finds_nothing_wrong_with_a_golden_log(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert auditor.main([str(log), f"--key={make.FIRST.public}"]) == 0, capsys.readouterr().err


def test_every_event_is_in_a_golden_log_as_it_is_written_today() -> None:
    """A new type or version is not done before ``python -m tests.golden.make`` has shown that it happens."""
    golden = {(line["type"], line["schema_version"]) for log in LOGS for line in lines(log)}
    assert set(ev.SCHEMA_VERSIONS.items()) - golden == set()
    assert (make.HERE / f"{horizon.__version__}.jsonl.gz") in LOGS


def test_a_golden_log_that_was_changed_is_found_out() -> None:
    """So that the tests above are known to be able to fail."""
    assert list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 4})) == ["/a/1/b was 2 and is 3"]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["/a was [1] and is [1, 2]"]

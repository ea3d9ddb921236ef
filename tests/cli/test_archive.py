"""The oldest events leave the database for files, and the log goes on in them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import pytest
from msgspec import convert

from horizon import auditor
from horizon.cli import archive as module
from horizon.cli import exits
from horizon.cli.client import Client
from horizon.cli.exits import CliError
from horizon.cli.places import Server
from horizon.store import codec, partitions
from horizon.store.line import Line, stored_in
from horizon.store.note import Checkpoint, SigningKey, signed
from horizon.store.tree import Frontier
from tests.cli.house import PATIENCE_S, Up, run
from tests.partitions import attached, make_small

SIZE = 100


def post(up: Up, path: str, body: Any, key: str = "") -> tuple[int, bytes]:
    token = (up.data_dir / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    headers |= {"Idempotency-Key": key} if key else {}
    request = Request(f"{up.url}{path}", json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, response.read()
    except HTTPError as error:
        return error.code, error.read()


def refused(up: Up, path: str) -> tuple[int, str]:
    with pytest.raises(HTTPError) as error:
        up.look(path)
    return error.value.code, json.loads(error.value.read())["detail"]


def jobs(count: int) -> dict[str, Any]:
    return {"jobs": [{"user_id": "alice", "command": "true", "hold": True}] * count}


def audit(file: Path, key: str, *options: str) -> subprocess.CompletedProcess[str]:
    check = [sys.executable, auditor.__file__, *options, str(file), "--key", key]
    return subprocess.run(check, capture_output=True, text=True)


class House:
    """A scheduler on a database with small partitions, some of them full and signed."""

    def __init__(self, home: Path, dsn: str, keys: int) -> None:
        self.data, self.dsn = home / "data", dsn
        self.archive = self.data / "archive"
        self.keys: list[str] = []
        self.answers: list[tuple[int, bytes]] = []
        """To batches of jobs, the log signed by one key after the other."""
        for number in range(keys):
            self.up = self.start()
            self.answers.append(post(self.up, "/api/v1/jobs/batch", jobs(300 // keys), key=f"{number}"))
            assert self.answers[-1][0] == 201, self.answers[-1]
            self.keys.append(self.up.ok("keys").strip())
            if number + 1 < keys:
                self.up.ok("keys", "rotate")
            self.up.stop()  # which signs all there is
        self.up = self.start()

    def start(self) -> Up:
        return Up(self.data, "--simulate-gpus", "1xH100", DATABASE_URL=self.dsn)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self.data, *arguments, DATABASE_URL=self.dsn)

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> list[Path]:
        return sorted(self.archive.iterdir())


@pytest.fixture
async def house(
    database: str, admin: asyncpg.Connection[Any], home: Path, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    await make_small(admin, SIZE)
    made = House(home, database, keys=getattr(request, "param", 1))
    yield made
    if made.up.process.poll() is None:
        made.up.kill()


@pytest.mark.parametrize("house", [2], indirect=True)
async def test_the_log_goes_on_in_files(house: House, admin: asyncpg.Connection[Any]) -> None:
    before = house.ok("verify")
    said = house.ok("archive", "--keep", "1", "--reason", "full disk")
    assert "events 1 to 100 are archived in" in said
    assert "events 101 to 200 are archived in" in said
    assert len(house.files()) == 2
    assert "events_000000" not in await attached(admin)
    for file, key in zip(house.files(), house.keys, strict=True):
        assert file.stat().st_mode & 0o777 == 0o600
        proven = audit(file, key)
        assert (proven.returncode, proven.stderr) == (0, "")
        assert "\n0 events behind it are linked and not signed" in proven.stdout
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await admin.execute("DELETE FROM events_000000")

    # Whoever reads on notices nothing.
    page = house.up.look("/events?after=0&limit=10000")
    assert [one["position"] for one in page["events"]] == list(range(1, page["head"] + 1))
    across = house.up.look("/events?after=195&limit=10")["events"]
    assert [one["position"] for one in across] == list(range(196, 206))
    assert house.up.look("/jobs/1/events")["events"] == [page["events"][4]]
    archived = [one["payload"] for one in page["events"] if one["type"] == "PartitionArchived"]
    assert [(one["last"], one["by"], one["reason"]) for one in archived] == [
        (100, "owner", "full disk"),
        (200, "owner", "full disk"),
    ]
    after = house.ok("verify")
    assert after.startswith("the log horizon/")
    assert after.split("\n")[0] == before.split("\n")[0]
    assert post(house.up, "/api/v1/jobs/batch", jobs(150), key="0") == house.answers[0]
    house.up.stop()
    house.up = house.start()
    assert house.up.look("/jobs?limit=1")["total"] == 3 * SIZE
    assert "nothing" not in house.ok("archive", "--drop")
    names = await admin.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'events_00000_'")
    assert "events_000000" not in {row["relname"] for row in names}
    post(house.up, "/api/v1/jobs/batch", jobs(3 * SIZE))
    assert (await attached(admin))[-1] == "events_000006"
    house.ok("verify")


async def test_without_the_files_the_rest_holds_and_what_is_missing_is_said(house: House) -> None:
    house.ok("archive")
    elsewhere = house.data / "elsewhere"
    house.archive.rename(elsewhere)
    partial = house.run("verify")
    assert partial.returncode == exits.PARTIAL == auditor.PARTIAL, partial.stderr
    assert "archived  events 1 to 100 are in log-" in partial.stdout
    assert "not here: not checked" in partial.stdout
    assert "  blobs     not checked: " in partial.stdout
    assert "checked   events 301 to " in partial.stdout
    code, detail = refused(house.up, "/events?after=0")
    assert code == 410
    assert "events 1 to 100 are in the file log-" in detail
    assert "SHA-256" in detail
    assert house.up.look("/events?after=300")["events"][0]["position"] == 301
    assert refused(house.up, "/jobs/1/events")[0] == 410
    assert refused(house.up, "/state?at=50")[0] == 410
    exported = house.run("export")
    assert exported.returncode == 1
    assert "HORIZON_ARCHIVE" in exported.stderr
    assert house.run("archive", "--drop").returncode == 1
    assert run(house.data, "verify", DATABASE_URL=house.dsn, HORIZON_ARCHIVE=str(elsewhere)).returncode == 0
    assert house.run("verify", "--decisions").returncode == 1


async def test_a_job_that_is_archived_is_proven_from_the_files(house: House) -> None:
    house.ok("archive")
    house.ok("cancel", "1", "--reason", "late")
    house.up.stop()  # which signs that
    proof = house.data / "proof.json"
    house.ok("prove", "1", "--out", str(proof))
    proven = audit(proof, house.keys[0], "--proof")
    assert (proven.returncode, proven.stderr) == (0, "")
    fields = json.loads(proof.read_bytes())
    assert [one["type"] for one in fields["events"]] == ["JobSubmitted", "JobCancelled"]
    by_id = json.loads(house.ok("prove", fields["streams"][0].removeprefix("job/")))
    assert by_id["events"] == fields["events"]
    assert house.run("prove", "9999").returncode == 4
    assert house.run("prove", "1_0").returncode == 4
    house.files()[1].rename(house.data / "away.jsonl")
    away = house.run("prove", "1")
    assert (away.returncode, away.stdout) == (1, "")
    assert "events 101 to 200 are in the file log-" in away.stderr


def rewritten(file: Path, position: int) -> bytes:
    """The lines of a file with an actor changed, and all hashes from there on made anew."""
    lines, previous = [], b""
    for text in file.read_bytes().splitlines():
        line = json.loads(text)
        if line.get("position", 0) >= position:
            line["actor"] = "mallory" if line["position"] == position else line["actor"]
            line["hash"] = codec.header_hash(stored_in(convert(line, Line)), previous).hex()
        previous = bytes.fromhex(line.get("hash", previous.hex()))
        lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return b"".join(lines)


async def test_files_that_are_here_are_checked_whatever_is_away(house: House) -> None:
    house.ok("archive")
    house.up.stop()  # which signs what says so
    first, second, _ = house.files()
    bytes_of_first = first.read_bytes()
    second.rename(house.data / second.name)
    done = house.run("verify")
    assert (done.returncode, done.stderr) == (exits.PARTIAL, "")
    assert "archived  events 101 to 200 are in log-" in done.stdout
    assert "checked   events 1 to 100: signed up to 100, 0 behind that linked only" in done.stdout
    assert "checked   events 201 to " in done.stdout
    assert "events 1 to 100 are in" not in done.stdout

    first.write_bytes(bytes_of_first.replace(b'"actor":"owner"', b'"actor":"mallo"', 1))
    done = house.run("verify")
    assert (done.returncode, done.stdout) == (1, "")
    assert "position 5: it was changed" in done.stderr
    first.write_bytes(bytes_of_first)
    first.write_bytes(rewritten(first, 50))
    done = house.run("verify")
    assert (done.returncode, done.stdout) == (1, "")
    assert "position 100: one of the events 1 to 100 is not what was archived" in done.stderr
    first.write_bytes(bytes_of_first)

    kept, foreign = house.data / "kept.txt", house.data / "foreign.txt"
    log = house.keys[0].split("+")[0]
    other = SigningKey.new("horizon/00")
    kept.write_text(signed(Checkpoint(log, 150, bytes(32), bytes(32)), [other]))
    foreign.write_text(signed(Checkpoint("horizon/00", 150, bytes(32), bytes(32)), [other]))
    done = house.run("verify", "--checkpoint", str(kept))
    assert done.returncode == exits.PARTIAL
    assert "the checkpoint at 150 is over events not here: not checked" in done.stdout
    done = house.run("verify", "--checkpoint", str(foreign))
    assert done.returncode == 1
    assert "its checkpoint is of the log horizon/00" in done.stderr


async def test_a_file_that_was_changed_is_found(house: House, admin: asyncpg.Connection[Any]) -> None:
    house.ok("archive")
    file = house.files()[1]
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b'"actor":"owner"', b'"actor":"mallo"', 1))
    done = house.run("verify")
    assert done.returncode == 1
    assert "position 101: " in done.stderr
    dropped = house.run("archive", "--drop")
    assert dropped.returncode == 1
    assert "does not hold" in dropped.stderr
    file.write_bytes(kept)
    house.ok("verify")
    await admin.execute("ALTER TABLE archives DISABLE TRIGGER ALL")
    await admin.execute("UPDATE archives SET tip = decode(repeat('00', 32), 'hex') WHERE first = 201")
    house.archive.rename(house.data / "elsewhere")
    done = house.run("verify")
    assert done.returncode == 1
    assert "position 301: it was changed, or the one before it" in done.stderr


def record(rows: list[Any]) -> dict[str, Any]:
    """All that can be known of the first partition, and a file that nobody has."""
    tree = Frontier()
    for row in rows:
        tree.add(row["hash"])
    return {
        **{"first": 1, "last": SIZE, "previous": "0" * 64, "tip": rows[-1]["hash"].hex()},
        **{"frontier": tree.packed().hex(), "file": "no-such-file.jsonl", "sha256": "0" * 64},
    }


ROWS = f"SELECT hash FROM events WHERE position <= {SIZE} ORDER BY position"


async def test_what_is_put_on_record_is_what_the_log_has(
    house: House, admin: asyncpg.Connection[Any]
) -> None:
    right = record(await admin.fetch(ROWS))
    tip_of_7 = (await admin.fetchval("SELECT hash FROM events WHERE position = 7")).hex()
    for wrong, pointer, words in (
        ({"last": 7, "tip": tip_of_7}, "/last", "the partition that begins at 1 ends at 100"),
        ({"first": 2}, "/first", "no full partition in the database begins at 2"),
        ({"first": 301, "last": 400}, "/first", "no full partition in the database begins at 301"),
        ({"previous": "1" * 64}, "/previous", "the previous is not the hash of event 0"),
        ({"tip": "1" * 64}, "/tip", "the tip is not the hash of event 100"),
        ({"frontier": "1" * 192}, "/frontier", "the frontier is not that of the log's tree at 100"),
        ({"file": "../log.jsonl"}, "/file", ""),
    ):
        status, answer = post(house.up, "/api/v1/log/archived", right | wrong)
        problem = json.loads(answer)
        assert status == (422 if pointer == "/file" else 409), problem
        assert problem["errors"][0]["pointer"] == pointer, problem
        assert words in problem["detail"], problem
    await admin.execute("ALTER TABLE checkpoints DISABLE TRIGGER ALL")
    await admin.execute(f"DELETE FROM checkpoints WHERE size > {SIZE}")
    status, answer = post(house.up, "/api/v1/log/archived", right)
    assert status == 409
    assert "must be signed beyond its end, which is 100" in json.loads(answer)["detail"]
    assert house.up.look("/events?type=PartitionArchived")["events"] == []


async def test_a_record_of_a_file_that_nobody_has_is_made_good(
    house: House, admin: asyncpg.Connection[Any]
) -> None:
    """All that a leader can see of it was right. The newest record counts, for whoever reads archives."""
    asked = record(await admin.fetch(ROWS))
    recorded = post(house.up, "/api/v1/log/archived", asked, key="useless")
    assert recorded[0] == 201, recorded
    done = house.run("archive", "--keep", "1")
    assert done.returncode == 0, done.stderr
    assert "no-such-file.jsonl" in done.stderr
    assert "so events 1 to 100 are archived again" in done.stderr
    events = house.up.look("/events?after=0&limit=10000")["events"]
    archived = [one["payload"] for one in events if one["type"] == "PartitionArchived"]
    assert [one["first"] for one in archived] == [1, 1, 101]
    assert [one.name for one in house.files()] == [one["file"] for one in archived[1:]]
    assert post(house.up, "/api/v1/log/archived", asked, key="useless") == recorded
    status, answer = post(house.up, "/api/v1/log/archived", asked)
    assert (status, "begins at 1" in json.loads(answer)["detail"]) == (409, True)
    house.ok("archive", "--drop")
    house.ok("verify")
    house.ok("export", "--from", "150", "--out", str(house.data / "part.jsonl"))
    house.files()[0].rename(house.data / "away")
    assert archived[1]["file"] in refused(house.up, "/events?after=5")[1]
    house.files()[0].rename(house.data / "away, too")
    partial = house.run("verify")
    assert partial.returncode == exits.PARTIAL, partial.stderr
    assert f"events 1 to 100 are in {archived[1]['file']}, not here: not checked" in partial.stdout


async def test_a_partition_that_was_only_taken_away_is_found(
    house: House, admin: asyncpg.Connection[Any]
) -> None:
    house.ok("archive", "--keep", "2")
    await admin.execute("ALTER TABLE events DETACH PARTITION events_000001")
    done = house.run("verify")
    assert done.returncode == 1
    assert "position 101: " in done.stderr


async def test_a_partition_that_no_event_calls_archived_is_found(
    house: House, admin: asyncpg.Connection[Any]
) -> None:
    """A superuser takes it away, and writes beside the log what an archive is known by, all of it right."""
    tree = Frontier()
    for row in await admin.fetch("SELECT hash FROM events WHERE position <= 100 ORDER BY position"):
        tree.add(row["hash"])
    await admin.execute(
        "INSERT INTO archives VALUES (1, 100, $1, $2, 'log.jsonl', $2, 150)", tree.packed(), row["hash"]
    )
    await admin.execute("ALTER TABLE events DETACH PARTITION events_000000")
    done = house.run("verify")
    assert done.returncode == 1
    assert "events up to 100 are not here, and nothing says that they are archived" in done.stderr


@pytest.mark.parametrize("where", ["audited", "set_apart"])
async def test_whatever_stops_it_the_same_command_goes_on(
    house: House, admin: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Before the file has its name, and when it is on record and still in the table."""
    monkeypatch.setenv("DATABASE_URL", house.dsn)
    client = Client(Server(house.up.url, (house.data / "token").read_text().strip()))
    house.archive.mkdir()
    archiver = module.Archiver(house.data, house.archive, client, None)

    def stop(*arguments: object) -> None:
        raise CliError("stopped")

    with monkeypatch.context() as broken:
        broken.setattr(module if where == "audited" else partitions, where, stop)
        with pytest.raises(CliError, match="stopped"):
            await archiver.archive(None, 0)
    client.close()
    assert "events_000000" in await attached(admin)
    house.ok("verify")
    house.ok("archive")
    assert "events_000000" not in await attached(admin)
    events = house.up.look("/events?after=0&limit=10000")["events"]
    archived = [one["payload"] for one in events if one["type"] == "PartitionArchived"]
    assert [(one["first"], one["last"]) for one in archived] == [(1, 100), (101, 200), (201, 300)]
    assert [one.name for one in house.files()] == [one["file"] for one in archived]
    house.ok("verify")


async def test_nothing_that_is_not_full_and_signed_is_archived(house: House) -> None:
    assert "0 were full" not in house.ok("archive", "--before", "200")
    assert len(house.files()) == 1
    house.ok("archive", "--before", "2020-01-01T00:00")
    assert len(house.files()) == 1
    house.ok("archive")
    assert len(house.files()) == 3
    assert house.run("archive", "--before", "soon").returncode == 2

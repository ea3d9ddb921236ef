"""Whatever comes in: the right 4xx, a pointer to the fault, never a 500, and nothing changed."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from horizon.api import wire
from horizon.api.problems import Problem
from horizon.api.reading import JsonBody
from horizon.core import limits
from tests.api.client import API, Client
from tests.world import TOKEN


def job(**fields: Any) -> dict[str, Any]:
    return {"user_id": "alice", "command": "true", **fields}


@pytest.fixture(autouse=True)
async def nothing_changed(client: Client) -> Any:
    yield
    assert (await client.get("/jobs"))["total"] == 0


# --- not JSON -----------------------------------------------------------------------------------------

DEEP = 100_000


NO_JSON = [
    (b"", "no body"),
    (b"  \n", "no body"),
    (b"{", "too early (byte 1)"),
    (b'{"user_id": "a"', "too early"),
    (b'{"user_id": alice}', "invalid character (byte 12)"),
    (b"{'user_id': 'a'}", "byte 1"),
    (b'{"user_id": "a"} x', "trailing characters"),
    (b'{"user_id": "a", "gpu_count": NaN}', "malformed JSON"),
    (b'{"user_id": "a", "memory_gb": Infinity}', "malformed JSON"),
    (b'{"user_id": "a", "memory_gb": -Infinity}', "malformed JSON"),
    (b'{"user_id": "a", "gpu_count": 01}', "malformed JSON"),
    (b'{"user_id": "\xff"}', "not UTF-8, at byte 13"),
    (b'{"user_id": "\xed\xa0\x80"}', "not UTF-8"),
    (b'{"user_id": "a", "command": "\\ud800"}', "surrogate"),
    (b'{"user_id": "a", "command": "\\ude00\\ud83d"}', "surrogate"),
    (b'{"user_id": "a", "command": "\\ud83dx"}', "surrogate"),
    (b'{"user_id": "a\x00"}', "malformed JSON"),
    (b'\xef\xbb\xbf{"user_id": "a"}', "malformed JSON"),
    (b'{"x":' * DEEP, "deeply"),
    (b'{"command": ' + b"[" * DEEP + b"]" * DEEP + b"}", "deeply"),
]


async def test_what_is_no_json_is_refused(client: Client) -> None:
    for raw, words in NO_JSON:
        for path in ("/jobs", "/jobs/batch"):
            answer = await client.ask("POST", path, raw=raw, status=400)
            assert words in answer.json["detail"], raw[:80]


async def test_a_whole_surrogate_pair_is_a_character(client: Client) -> None:
    answer = await client.ask("POST", "/jobs", raw=b'{"user_id": "\\ud83d\\ude00", "nope": 1}', status=422)
    assert answer.pointers == ["/nope"]


# --- JSON, but not a job ------------------------------------------------------------------------------


async def test_what_is_no_object_is_refused(client: Client) -> None:
    for raw in (b"[]", b'"job"', b"1", b"null", b"true", b"[" * 500 + b"]" * 500):
        for path in ("/jobs", "/jobs/batch"):
            answer = await client.ask("POST", path, raw=raw, status=422)
            assert "Expected `object`" in answer.json["detail"]


async def test_unknown_fields_are_all_named(client: Client) -> None:
    body = job(needs=[1], tasks="1-10", gpus=2, **{"a/b~c": 1})
    answer = await client.ask("POST", "/jobs", body, status=422)
    assert answer.pointers == ["/needs", "/tasks", "/gpus", "/a~1b~0c"]
    assert "unknown field 'needs'" in answer.json["detail"]


async def test_every_fault_is_named_at_once(client: Client) -> None:
    body = job(
        gpu_count=-1,
        priority=7,
        labels={"a": 1, "b": "c" * 5_000},
        environment={"X": None, "Y": "fine"},
        depends_on=[1, {"job": None}, "after_ok:1"],
        command=["a", 3],
        time_limit_s="1h",
    )
    answer = await client.ask("POST", "/jobs", body, status=422)
    assert sorted(answer.pointers) == [
        "/command/1", "/depends_on/0", "/depends_on/1/job", "/environment/X", "/gpu_count", "/labels/a",
        "/labels/b", "/priority", "/time_limit_s",
    ]  # fmt: skip
    body = job(user_id="a/b", account="a//b", priority="top", script="echo", working_dir="here", command=[""])
    answer = await client.ask("POST", "/jobs", body, status=422)
    assert sorted(answer.pointers) == [
        "/account",
        "/command/0",
        "/priority",
        "/script",
        "/user_id",
        "/working_dir",
    ]


BIG = 1 << 63

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": None}, "/user_id"),
    ({"user_id": ""}, "/user_id"),
    ({"user_id": 5}, "/user_id"),
    ({"user_id": "a/b"}, "/user_id"),
    ({"user_id": "a\nb"}, "/user_id"),
    ({"user_id": "a\x7f"}, "/user_id"),
    ({"user_id": ".."}, "/user_id"),
    ({"user_id": "x" * 129}, "/user_id"),
    ({"user_id": "x" * 1_000_000}, "/user_id"),
    ({"user_id": "a\x00b"}, "/user_id"),
    ({"account": "/a"}, "/account"),
    ({"account": "a/"}, "/account"),
    ({"account": "a/b/c/d/e/f/g/h/i"}, "/account"),
    ({"account": "x" * 129}, "/account"),
    ({"account": "a/b\x1b/c"}, "/account"),
    ({"command": 5}, "/command"),
    ({"command": {"a": 1}}, "/command"),
    ({"command": ["a", None]}, "/command/1"),
    ({"command": ["a", "b\x00"]}, "/command/1"),
    ({"command": ""}, "/command"),
    ({"command": []}, "/command"),
    ({"command": "x" * (limits.COMMAND_BYTES_MAX + 1)}, "/command"),
    ({"command": "é" * (limits.COMMAND_BYTES_MAX // 2 + 1)}, "/command"),
    ({"command": ["x"] * (limits.COMMAND_BYTES_MAX // 2 + 1)}, "/command"),
    ({"command": None, "script": "echo"}, "/script"),
    ({"command": None, "script": "#!" + "x" * limits.SCRIPT_BYTES_MAX}, "/script"),
    ({"script": "#!/bin/sh\n"}, "/script"),
    ({"working_dir": "relative"}, "/working_dir"),
    ({"working_dir": "/" + "x" * limits.TEXT_LENGTH_MAX}, "/working_dir"),
    ({"environment": ["A=1"]}, "/environment"),
    ({"environment": {"A": 1}}, "/environment/A"),
    ({"environment": {"": "1"}}, "/environment/"),
    ({"environment": {"A=B": "1"}}, "/environment/A"),
    ({"environment": {"A": "\x00"}}, "/environment/A"),
    ({"environment": {"A\x00": ""}}, "/environment/A\x00"),
    ({"environment": {f"V{n}": "" for n in range(1_001)}}, "/environment"),
    ({"environment": {"A": "x" * limits.ENVIRONMENT_BYTES_MAX}}, "/environment"),
    ({"job_name": "x" * 4_097}, "/job_name"),
    ({"job_name": "a\x00"}, "/job_name"),
    ({"comment": 1}, "/comment"),
    ({"gpu_type": ""}, "/gpu_type"),
    ({"gpu_type": "x" * 129}, "/gpu_type"),
    ({"labels": {"": "x"}}, "/labels"),
    ({"labels": {"x" * 129: "x"}}, "/labels"),
    ({"labels": {"x": "x" * 4_097}}, "/labels/x"),
    ({"labels": {str(n): "" for n in range(65)}}, "/labels"),
    ({"constraints": {"zone": 1}}, "/constraints/zone"),
    ({"nodes": 0}, "/nodes"),
    ({"nodes": 9}, "/nodes"),
    ({"time_limit_s": 0}, "/time_limit_s"),
    ({"priority": "x" * 17}, "/priority"),
    ({"exclusive": 1}, "/exclusive"),
    ({"hold": "true"}, "/hold"),
    ({"begin_at": "tomorrow"}, "/begin_at"),
    ({"begin_at": "2030-01-01T00:00:00"}, "/begin_at"),
    ({"begin_at": 1_900_000_000}, "/begin_at"),
    ({"begin_at": "1969-12-31T23:59:59Z"}, "/begin_at"),
    ({"begin_at": "9999-12-31T23:59:59-10:00"}, "/begin_at"),
    ({"begin_at": "2030-13-01T00:00:00Z"}, "/begin_at"),
    ({"stop_signal": "SIGKILL"}, "/stop_signal"),
    ({"stop_signal": 15}, "/stop_signal"),
    ({"depends_on": "after_ok:1"}, "/depends_on"),
    ({"depends_on": [1]}, "/depends_on/0"),
    ({"depends_on": ["1"]}, "/depends_on/0"),
    ({"depends_on": ["after_ok:1"]}, "/depends_on/0"),
    ({"depends_on": ["after_ok:1_2"]}, "/depends_on/0"),
    ({"depends_on": ["after_ok:"]}, "/depends_on/0"),
    ({"depends_on": ["after_ok:x\x00"]}, "/depends_on/0"),
    ({"depends_on": ["whenever:1"]}, "/depends_on/0"),
    ({"depends_on": [{"job": 1}]}, "/depends_on/0"),
    ({"depends_on": [{"job": BIG}]}, "/depends_on/0"),
    ({"depends_on": [{"job": 0}]}, "/depends_on/0/job"),
    ({"depends_on": [{"job": 1.5}]}, "/depends_on/0/job"),
    ({"depends_on": [{"kind": "after_ok"}]}, "/depends_on/0"),
    ({"depends_on": [{"job": 1, "kind": "whenever"}]}, "/depends_on/0"),
    ({"depends_on": [{"job": 1, "when": "now"}]}, "/depends_on/0"),
    ({"depends_on": ["after_ok:1"] * 1_001}, "/depends_on"),
    ({"array": 10}, "/array"),
    ({"array": ""}, "/array"),
    ({"array": "9-0"}, "/array"),
    ({"array": "0-100000"}, "/array"),
    ({"array": ",".join(map(str, range(1_001)))}, "/array"),
    ({"array": "1" * 100_000}, "/array"),
    *(
        ({field: value}, f"/{field}")
        for field in ("gpu_count", "cpu_cores", "nodes", "time_limit_s", "grace_period_s", "max_retries")
        for value in (-1, BIG, -BIG - 1, 10**40, 1.0, 1.5, True, "1", [], {})
    ),
    *(
        ({field: value}, f"/{field}")
        for field in ("memory_gb", "gpu_memory_gb")
        for value in (-0.5, BIG, 10**40, 1e300, True, "1")
    ),
]


async def test_a_value_that_cannot_be_is_refused_with_a_pointer(client: Client) -> None:
    for fields, pointer in FAULTS:
        answer = await client.ask("POST", "/jobs", job(**fields))
        assert (answer.status, answer.pointers) == (422, [pointer]), str(fields)[:80]
        assert len(answer.body) < 1_000
        answer = await client.ask("POST", "/jobs/batch", {"jobs": [job(), job(**fields)]})
        assert (answer.status, answer.pointers) == (422, [f"/jobs/1{pointer}"]), str(fields)[:80]


async def test_a_number_out_of_all_range_is_refused(client: Client) -> None:
    raw = b'{"user_id": "a", "command": "true", "memory_gb": 1e999}'
    assert (await client.ask("POST", "/jobs", raw=raw, status=422)).pointers == ["/memory_gb"]


TWICE = [
    b'{"user_id": "a", "user_id": "b", "command": "true"}',
    b'{"user_id": "a", "command": "a:b", "command": "true"}',
    b'{"user_id": "a", "command" : "true", "labels": {"x": "1", "x": "2"}}',
    b'{"user_id":"a","command":"x\\":","environment":{"x":"1","y":":","x":"2"}}',
    b'{"user_id":"a","\\u0075ser_id":"b","command":"true"}',
    b'{"user_id":"a","command":"true","depends_on":[{"job":1,"job":2}]}',
]


async def test_a_name_given_twice_is_refused(client: Client) -> None:
    for raw in TWICE:
        assert "twice" in (await client.ask("POST", "/jobs", raw=raw, status=422)).json["detail"]
        batch = b'{"jobs": [' + raw + b"]}"
        assert "twice" in (await client.ask("POST", "/jobs/batch", raw=batch, status=422)).json["detail"]
    await client.ask("PUT", "/shares/a", raw=b'{"weight":1,"weight":2}', status=422)


names = st.sampled_from(["a", "b", ":", '":', '" :', "\\", "\n"])
texts = st.dictionaries(names, names, max_size=4)


@given(
    st.fixed_dictionaries(
        {"user_id": names, "command": names}, optional={"environment": texts, "labels": texts}
    ),
    st.sampled_from([None, 2]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t : ")]),
    st.booleans(),
)
def test_names_given_twice_are_found_and_no_others(
    fields: dict[str, Any], indent: int | None, separators: tuple[str, str], twice: bool
) -> None:
    text = json.dumps(fields, indent=indent, separators=separators)
    if twice:
        text = text[:-1] + ',"command":"true"}'
    body = text.encode()
    count = wire.names_in_submission(msgspec.json.decode(body, type=wire.Submission))
    assert count == 2 + sum(1 + len(fields[name]) for name in ("environment", "labels") if name in fields)
    if twice:
        with pytest.raises(Problem):
            JsonBody._refuse_duplicates(body, count)
    else:
        JsonBody._refuse_duplicates(body, count)


# --- the wrong size, type, method, place --------------------------------------------------------------


NOT_JSON = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=latin-1",
    "",
    "json",
)


async def test_what_does_not_say_it_is_json_is_refused(client: Client) -> None:
    body = json.dumps(job()).encode()
    for given_type in NOT_JSON:
        answer = await client.ask("POST", "/jobs", raw=body, headers={"Content-Type": given_type}, status=415)
        assert "application/json" in answer.json["detail"]


async def test_json_may_say_that_it_is_utf_8(client: Client) -> None:
    body = json.dumps(job(gpu_count=-1)).encode()
    for given_type in ("application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        await client.ask("POST", "/jobs", raw=body, headers={"Content-Type": given_type}, status=422)


async def test_a_body_of_10_mb_is_refused_unread(client: Client) -> None:
    body = json.dumps(job(comment="x" * 10_000_000)).encode()
    answer = await client.ask("POST", "/jobs", raw=body, status=413)
    assert "4,194,304" in answer.json["detail"]


async def raw_exchange(client: Client, sent: bytes) -> bytes:
    """What comes back for these very bytes, up to the end of the headers."""
    port = int(client.scheduler.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    finally:
        writer.close()


def head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {API}{path} HTTP/1.1", "Host: h", f"Authorization: Bearer {TOKEN}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def test_a_huge_body_is_refused_before_it_is_sent(client: Client) -> None:
    sizes = ("Content-Type: application/json", "Content-Length: 100000000000")
    assert b" 413 " in await raw_exchange(client, head("POST", "/jobs/batch", *sizes))
    assert b" 413 " in await raw_exchange(client, head("POST", "/jobs", *sizes, "Expect: 100-continue"))


async def test_a_huge_body_of_unknown_length_is_refused_on_the_way(client: Client) -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    start = head("POST", "/jobs", "Content-Type: application/json", "Transfer-Encoding: chunked")
    assert b" 413 " in await raw_exchange(client, start + chunk * 6)


async def test_a_body_that_unpacks_to_more_is_refused(client: Client) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Encoding": "gzip"}
    answer = await client.ask("POST", "/jobs", raw=bomb, headers=headers)
    assert answer.status in (400, 413)
    answer = await client.ask("POST", "/jobs", raw=b"this is no gzip", headers=headers)
    assert answer.status == 400


async def test_an_expectation_is_met_or_refused(client: Client) -> None:
    size = ("Content-Type: application/json", "Content-Length: 2")
    assert b"100 Continue" in await raw_exchange(client, head("POST", "/jobs", *size, "Expect: 100-continue"))
    assert b" 417 " in await raw_exchange(client, head("POST", "/jobs", *size, "Expect: tea"))


async def test_an_unknown_path_is_a_problem_too(client: Client) -> None:
    for path in ("/", "//nope", "/jobs/", "/job", "/jobs/1/nope", "//api", "//api/v2/jobs", "/%00", "/%ff"):
        assert "openapi.json" in (await client.ask("GET", path, status=404)).json["detail"]


async def test_a_wrong_method_is_told_the_right_ones(client: Client) -> None:
    for method, path, allowed in (
        ("PUT", "/jobs", "GET, HEAD, POST"),
        ("POST", "/jobs/1", "DELETE, GET, HEAD, PATCH"),
        ("DELETE", "/queue", "GET, HEAD"),
        ("OPTIONS", "/nodes", "GET, HEAD"),
        ("POST", "//health", "GET, HEAD"),
        ("PATCH", "/shares/a", "GET, HEAD, PUT"),
        ("POST", "/policy", "GET, HEAD, PUT"),
        ("GET", "/nodes/node-1/drain", "POST"),
    ):
        assert (await client.ask(method, path, status=405)).headers["Allow"] == allowed


async def test_head_answers_like_get_without_the_body(client: Client) -> None:
    for path in ("/jobs", "/queue", "/nodes", "//health", "//openapi.json", "//metrics"):
        assert (await client.ask("HEAD", path, status=200)).headers["Content-Type"]
    assert (await client.ask("HEAD", "/jobs/1")).status == 404


async def test_nonsense_in_the_query_is_refused(client: Client) -> None:
    for query in (
        "after=-1",
        "after=9223372036854775808",
        "after=x",
        "after",
        "limit=0",
        "limit=10001",
        "%ff=1",
    ):
        await client.ask("GET", f"/events?{query}", status=422)

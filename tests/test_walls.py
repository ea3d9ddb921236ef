"""The walls of the house: who may import whom, and what every event must have."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import msgspec
import pytest

import horizon
from horizon.core import events as ev
from horizon.core.model import (
    Array,
    Dependency,
    DependencyKind,
    Device,
    Exit,
    IndexRange,
    Inventory,
    JobSpec,
    Placement,
    Priority,
    StopSignal,
)
from horizon.core.policy import Policy

HOUSE = Path(horizon.__file__).parent

MAY_IMPORT = {
    "core": {"core", "_placement", "_queue"},
    "store": {"store", "core"},
    "executors": {"executors", "core"},
    "service": {"service", "store.codec", "store.note", "store.port", "store.tree", "executors.port", "core"},
    "api": {"api", "service", "store.port", "executors.port", "core"},
    "cli": {"cli", "api", "service", "store", "executors", "core", "auditor"},
}
"""Imports point one way. Only ``cli`` puts the parts together, so only it may name an adapter; ``store.codec``,
``store.note`` and ``store.tree`` are none, but the arithmetic of chains, of signed notes and of trees."""

IMPURE = {
    "time",
    "random",
    "os",
    "socket",
    "asyncio",
    "secrets",
    "uuid",
    "threading",
    "subprocess",
    "io",
    "pathlib",
}
"""What would let a clock, chance or the world into the core."""


def imported(path: Path) -> list[str]:
    """The modules a file imports, deferred imports included."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names] if module.count(".") < 2 else [module]
    return names


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(HOUSE).parts[0]
    if room not in MAY_IMPORT:
        assert room in ("__init__.py", "auditor.py"), f"{room} is no room of the house"
        assert not any(name.startswith("horizon") for name in imported(path)), f"{path} stands alone"
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "horizon" or len(parts) == 1 or parts[1] == "__version__":
            continue
        allowed = MAY_IMPORT[room]
        assert parts[1] in allowed or ".".join(parts[1:3]) in allowed, f"{path} must not import {name}"


@pytest.mark.parametrize("path", sorted((HOUSE / "core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {func.id for func in calls if isinstance(func, ast.Name)}
    assert not names & {"open", "print", "input", "hash", "id"}
    assert not {func.attr for func in calls if isinstance(func, ast.Attribute)} & {"now", "utcnow", "today"}


@pytest.mark.parametrize("event", ev.EVENT_TYPES, ids=lambda event: event.__name__)
def test_every_event_has_a_sentence(event: type[ev.Event]) -> None:
    sentence = (inspect.getdoc(event) or "").split("\n")[0]
    assert sentence.endswith(".")
    assert len(sentence.split()) >= 5


ID = "0192a3b4-0000-7000-8000-000000000001"
PLACEMENT = Placement("node-1", ("GPU-1", "GPU-2"), 8, 65_536)
NODE = Inventory("node-1", 32, 262_144, (Device("GPU-1", 0, "H100", 81_559),), {"zone": "a"}, True)
FULL = JobSpec(
    user_id="alice", command=("python", "train.py"), gpu_count=2, priority=Priority.HIGH, account="research/nlp",
    job_name="train", gpu_type="H100", gpu_memory_mib=81_920, cpu_cores=8, memory_mib=65_536, nodes=1,
    exclusive=True, time_limit_s=3_600, grace_period_s=30, max_retries=2, preemptible=True, hold=True,
    begin_at_us=1_700_000_000_000_000, constraints={"zone": "a"}, labels={"team": "nlp"}, comment="first try",
    working_dir="/data", environment_names=("SEED",), environment_digest="ab12", script_digest="cd34",
)  # fmt: skip
TASKS = JobSpec(
    user_id="alice", command="true", array=Array((IndexRange(0, 9, 2), IndexRange(20, 20)), 3),
    depends_on=(Dependency(ID, DependencyKind.AFTER_ANY),), stop_signal=StopSignal.SIGUSR1,
)  # fmt: skip
BY = {"cycle": 7, "now_us": 5, "policy_version": 2}
BY_JSON = '"cycle":7,"now_us":5,"policy_version":2'

GOLDEN: list[tuple[ev.Event, str]] = [
    (
        ev.JobSubmitted(job_id=ID, number=1, spec=JobSpec("alice", "true")),
        f'{{"type":"JobSubmitted","job_id":"{ID}","number":1,"spec":{{"user_id":"alice","command":"true"}}}}',
    ),
    (
        ev.JobSubmitted(job_id=ID, number=2, spec=FULL),
        f'{{"type":"JobSubmitted","job_id":"{ID}","number":2,"spec":{{"user_id":"alice","command":["python",'
        '"train.py"],"gpu_count":2,"priority":"High","account":"research/nlp","job_name":"train","gpu_type":"H100",'
        '"gpu_memory_mib":81920,"cpu_cores":8,"memory_mib":65536,"nodes":1,"exclusive":true,"time_limit_s":3600,'
        '"grace_period_s":30,"max_retries":2,"preemptible":true,"hold":true,"begin_at_us":1700000000000000,'
        '"constraints":{"zone":"a"},"labels":{"team":"nlp"},"comment":"first try","working_dir":"/data",'
        '"environment_names":["SEED"],"environment_digest":"ab12","script_digest":"cd34"}}',
    ),
    (
        ev.JobSubmitted(job_id=ID, number=3, spec=TASKS),
        f'{{"type":"JobSubmitted","job_id":"{ID}","number":3,"spec":{{"user_id":"alice","command":"true",'
        f'"stop_signal":"SIGUSR1","depends_on":[{{"job_id":"{ID}","kind":"after_any"}}],'
        '"array":{"ranges":[{"first":0,"last":9,"step":2},{"first":20,"last":20}],"limit":3}}}',
    ),
    (
        ev.JobReserved(job_id=ID, start_us=9, nodes=("node-1",), **BY),
        f'{{"type":"JobReserved","job_id":"{ID}","start_us":9,"nodes":["node-1"],{BY_JSON}}}',
    ),
    (
        ev.CheckpointRecorded(job_id=ID, attempt=1),
        f'{{"type":"CheckpointRecorded","job_id":"{ID}","attempt":1}}',
    ),
    (
        ev.BlobsErased(job_id=ID, digests=("ab12",), by="owner", kept=("cd34",), reason="asked to"),
        f'{{"type":"BlobsErased","job_id":"{ID}","digests":["ab12"],"by":"owner","kept":["cd34"],'
        '"reason":"asked to"}',
    ),
    (
        ev.RequeueRequested(job_id=ID, attempt=1, by="owner", reason="upgrade", **BY),
        f'{{"type":"RequeueRequested","job_id":"{ID}","attempt":1,"by":"owner","reason":"upgrade",{BY_JSON}}}',
    ),
    (
        ev.PreemptionRequested(
            job_id=ID, attempt=1, by=ID, reason="Urgent", nodes=("node-1",), lost_gpu_us=8, **BY
        ),
        f'{{"type":"PreemptionRequested","job_id":"{ID}","attempt":1,"by":"{ID}","reason":"Urgent",'
        f'"nodes":["node-1"],"lost_gpu_us":8,{BY_JSON}}}',
    ),
    (
        ev.JobRequeued(
            job_id=ID,
            cause=ev.RequeueCause.DEVICE,
            reason="a GPU has failed",
            not_before_us=9,
            avoid=("node-1",),
        ),
        f'{{"type":"JobRequeued","job_id":"{ID}","cause":"device","reason":"a GPU has failed",'
        '"not_before_us":9,"avoid":["node-1"]}',
    ),
    (
        ev.JobFailed(job_id=ID, reason="after_ok of job 1 can never hold", **BY),
        f'{{"type":"JobFailed","job_id":"{ID}","reason":"after_ok of job 1 can never hold",{BY_JSON}}}',
    ),
    (ev.JobHeld(job_id=ID), f'{{"type":"JobHeld","job_id":"{ID}"}}'),
    (ev.JobHeld(job_id=ID, reason="bad"), f'{{"type":"JobHeld","job_id":"{ID}","reason":"bad"}}'),
    (ev.JobReleased(job_id=ID, reason="fixed"), f'{{"type":"JobReleased","job_id":"{ID}","reason":"fixed"}}'),
    (
        ev.JobUpdated(job_id=ID, time_limit_s=60, reason="a demo"),
        f'{{"type":"JobUpdated","job_id":"{ID}","time_limit_s":60,"reason":"a demo"}}',
    ),
    (
        ev.NodeResumed(node="node-1", by="owner", reason="new fan"),
        '{"type":"NodeResumed","node":"node-1","by":"owner","reason":"new fan"}',
    ),
    (
        ev.DeviceRecovered(node="node-1", device="GPU-1", by="owner", reason="reseated"),
        '{"type":"DeviceRecovered","node":"node-1","device":"GPU-1","by":"owner","reason":"reseated"}',
    ),
    (
        ev.BookingEnded(booking="b", by="owner", reason="done"),
        '{"type":"BookingEnded","booking":"b","by":"owner","reason":"done"}',
    ),
    (
        ev.ShareSet(path="research", weight=3, reason="deadline"),
        '{"type":"ShareSet","path":"research","weight":3,"reason":"deadline"}',
    ),
    (
        ev.QuotaSet(path="research", max_gpus=8, reason="budget"),
        '{"type":"QuotaSet","path":"research","max_gpus":8,"reason":"budget"}',
    ),
    (
        ev.JobReleased(job_id=ID, begin_reached=True),
        f'{{"type":"JobReleased","job_id":"{ID}","begin_reached":true}}',
    ),
    (
        ev.JobUpdated(job_id=ID, priority=Priority.URGENT),
        f'{{"type":"JobUpdated","job_id":"{ID}","priority":"Urgent"}}',
    ),
    (
        ev.JobScheduled(job_id=ID, attempt=1, allocation=(PLACEMENT,), cycle=7, now_us=5, rank=1, score=0.5),
        f'{{"type":"JobScheduled","job_id":"{ID}","attempt":1,"allocation":[{{"node":"node-1","gpu_ids":["GPU-1",'
        '"GPU-2"],"cpu_cores":8,"memory_mib":65536}],"cycle":7,"now_us":5,"rank":1,"score":0.5}',
    ),
    (ev.JobStarted(job_id=ID, attempt=1), f'{{"type":"JobStarted","job_id":"{ID}","attempt":1}}'),
    (
        ev.TimeLimitReached(job_id=ID, attempt=1, time_limit_s=60),
        f'{{"type":"TimeLimitReached","job_id":"{ID}","attempt":1,"time_limit_s":60}}',
    ),
    (
        ev.PreemptionRequested(job_id=ID, attempt=1, by="job 9", reason="Urgent"),
        f'{{"type":"PreemptionRequested","job_id":"{ID}","attempt":1,"by":"job 9","reason":"Urgent"}}',
    ),
    (
        ev.JobPreempted(job_id=ID, attempt=1, by="job 9", lost_gpu_us=12),
        f'{{"type":"JobPreempted","job_id":"{ID}","attempt":1,"by":"job 9","lost_gpu_us":12}}',
    ),
    (
        ev.JobRequeued(job_id=ID, cause=ev.RequeueCause.RETRY, reason="exit code 3", exit=Exit(exit_code=3)),
        f'{{"type":"JobRequeued","job_id":"{ID}","cause":"retry","reason":"exit code 3","exit":{{"exit_code":3}}}}',
    ),
    (
        ev.JobCompleted(job_id=ID, attempt=1, exit=Exit(exit_code=0)),
        f'{{"type":"JobCompleted","job_id":"{ID}","attempt":1,"exit":{{"exit_code":0}}}}',
    ),
    (
        ev.JobFailed(job_id=ID, attempt=1, reason="killed by signal 9", exit=Exit(signal=9)),
        f'{{"type":"JobFailed","job_id":"{ID}","reason":"killed by signal 9","attempt":1,"exit":{{"signal":9}}}}',
    ),
    (
        ev.JobCancelled(job_id=ID, by="owner", reason="wrong data"),
        f'{{"type":"JobCancelled","job_id":"{ID}","by":"owner","reason":"wrong data"}}',
    ),
    (
        ev.AllocationReleased(job_id=ID, attempt=1),
        f'{{"type":"AllocationReleased","job_id":"{ID}","attempt":1}}',
    ),
    (
        ev.NodeRegistered(node="node-1", inventory=NODE),
        '{"type":"NodeRegistered","node":"node-1","inventory":{"name":"node-1","cpu_cores":32,"memory_mib":262144,'
        '"devices":[{"uuid":"GPU-1","index":0,"gpu_type":"H100","memory_mib":81559}],"labels":{"zone":"a"},'
        '"simulated":true}}',
    ),
    (
        ev.NodeChanged(node="node-1", inventory=Inventory("node-1", 1, 1)),
        '{"type":"NodeChanged","node":"node-1","inventory":{"name":"node-1","cpu_cores":1,"memory_mib":1}}',
    ),
    (ev.NodeLost(node="node-1", reason="gone"), '{"type":"NodeLost","node":"node-1","reason":"gone"}'),
    (
        ev.NodeCordoned(node="node-1", by="owner", reason="fan", drain=True, deadline_us=9),
        '{"type":"NodeCordoned","node":"node-1","by":"owner","reason":"fan","drain":true,"deadline_us":9}',
    ),
    (ev.NodeResumed(node="node-1", by="owner"), '{"type":"NodeResumed","node":"node-1","by":"owner"}'),
    (
        ev.DeviceFailed(node="node-1", device="GPU-1", by="executor", reason="XID 79"),
        '{"type":"DeviceFailed","node":"node-1","device":"GPU-1","by":"executor","reason":"XID 79"}',
    ),
    (
        ev.DeviceRecovered(node="node-1", device="GPU-1", by="owner"),
        '{"type":"DeviceRecovered","node":"node-1","device":"GPU-1","by":"owner"}',
    ),
    (
        ev.BookingMade(booking="b", nodes=("node-1",), start_us=5, end_us=9, by="owner", reason="fans"),
        '{"type":"BookingMade","booking":"b","nodes":["node-1"],"start_us":5,"end_us":9,"by":"owner","reason":"fans"}',
    ),
    (
        ev.BookingEnded(booking="b", by="its end", **BY),
        f'{{"type":"BookingEnded","booking":"b","by":"its end",{BY_JSON}}}',
    ),
    (
        ev.QuotaSet(path="research", max_gpus=8, guaranteed_gpus=4),
        '{"type":"QuotaSet","path":"research","max_gpus":8,"guaranteed_gpus":4}',
    ),
    (
        ev.PolicySet(version=2, policy=Policy(gpu_cost={"H100": 2_000}), by="owner"),
        '{"type":"PolicySet","version":2,"policy":{"order":"fair","strict":false,"reservation_depth":16,'
        '"examined_max":100000,"patience_s":86400,"assumed_time_limit_s":86400,"half_life_s":604800,"charge_ahead_s":3600,'
        '"gpu_cost":{"H100":2000},"cores_per_gpu":16,"memory_gb_per_gpu":128,"preemption":true,'
        '"min_runtime_s":60,"preemption_searches_max":8,"retry_backoff_s":1,"retry_backoff_max_s":300,'
        '"topology_labels":["switch","rack"]},"by":"owner"}',
    ),
    (ev.ShareSet(path="research", weight=3), '{"type":"ShareSet","path":"research","weight":3}'),
    (
        ev.LeaderElected(epoch=2, host="h", pid=7, version="0.1.0", config_digest="ef", decisions=3),
        '{"type":"LeaderElected","epoch":2,"host":"h","pid":7,"version":"0.1.0","config_digest":"ef","decisions":3}',
    ),
    (
        ev.AllocationOverdue(job_id=ID, attempt=2, until_us=9),
        f'{{"type":"AllocationOverdue","job_id":"{ID}","attempt":2,"until_us":9}}',
    ),
    (
        ev.CommandRefused(
            command="Cancel",
            target=f"job/{ID}",
            kind="conflict",
            detail="it has ended",
            by="owner",
            reason="x",
            asked={"hold": True},
        ),
        f'{{"type":"CommandRefused","command":"Cancel","target":"job/{ID}","kind":"conflict",'
        '"detail":"it has ended","by":"owner","reason":"x","asked":{"hold":true}}',
    ),
    (
        ev.SigningKeySet(key="horizon/00+0a0b0c0d+AQ==", by="scheduler"),
        '{"type":"SigningKeySet","key":"horizon/00+0a0b0c0d+AQ==","by":"scheduler"}',
    ),
    (
        ev.PartitionArchived(
            first=1,
            last=9,
            previous="00",
            tip="ab",
            frontier="cd",
            keys=("k",),
            file="log.jsonl",
            sha256="ef",
            by="owner",
        ),
        '{"type":"PartitionArchived","first":1,"last":9,"previous":"00","tip":"ab","frontier":"cd","keys":["k"],'
        '"file":"log.jsonl","sha256":"ef","by":"owner"}',
    ),
]


@pytest.mark.parametrize(("event", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_an_event_is_written_as_it_always_was(event: ev.Event, golden: str) -> None:
    """These bytes are in people's logs: a change here needs a new schema version and an upcaster."""
    assert ev.encode(event).decode() == golden
    assert ev.decode(golden.encode()) == event


def test_every_event_has_a_golden_encoding() -> None:
    assert {type(event) for event, _ in GOLDEN} == set(ev.EVENT_TYPES)
    assert {json.loads(golden)["type"] for _, golden in GOLDEN} == set(ev.SCHEMA_VERSIONS)


@pytest.mark.parametrize(
    "payload", [b'{"type":"JobTeleported"}', b'{"type":"JobHeld","job_id":"1","more":1}', b"{"]
)
def test_an_event_with_anything_unknown_is_not_decoded(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        ev.decode(payload)

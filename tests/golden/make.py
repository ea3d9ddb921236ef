"""``python -m tests.golden.make``: writes the golden log of this version of Horizon, and what it folds to.

A golden log is an export of a random life in which every type of event happens, as this version writes them;
beside it stands what is so once it is folded. Every later version must read it, find nothing wrong with it,
and come to the same: ``test_golden.py`` sees to that for all that were ever made. Until its version is
released it is made anew with every new type or version of an event and every change of the code that decides;
as it was when it was released it stays for ever. The one of a date is by the program of that day, when all
events were at version 1.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins
from msgspec.structs import replace

import horizon
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.schedule import DECISIONS
from horizon.core.state import Job, State
from horizon.store.tree import Frontier
from tests.core.spec import World, job_id
from tests.core.worlds import Life
from tests.vectors.make import FIRST, SECOND, exported, notes

HERE: Final = Path(__file__).parent
STEPS: Final = 100
SEEDS: Final = 1_000
A_CHECKPOINT: Final = 100
"""A checkpoint is signed behind every so many events."""


def history() -> World:
    """Two leaders, the second with a key of its own, and all that can happen under them."""
    for seed in range(SEEDS):
        life = Life(seed)
        _lead(life.world, 1, ev.SigningKeySet(key=str(FIRST.public), by="scheduler"))
        life._begin()
        for _ in range(STEPS):
            life._step()
        _lead(life.world, 2, ev.SigningKeySet(key=str(SECOND.public), by="scheduler"))
        for _ in range(STEPS):
            life._step()
        _erase_and_archive(life.world)
        if {one.type for one in life.world.log} == set(ev.SCHEMA_VERSIONS):
            return life.world
    raise AssertionError(f"in none of {SEEDS} lives everything happened: add what is missing by hand")


def _erase_and_archive(world: World) -> None:
    """What no random life does."""
    id = job_id(world.state.next_number)
    world.submit("eve", command="", script_digest="ab" * 32, environment_digest="cd" * 32, hold=True)
    world.when(cmd.Cancel(id)).when(cmd.Erase(id, "asked to"))
    tree = Frontier()
    for one in world.log[:A_CHECKPOINT]:
        tree.add(one.hash)
    tip, frontier = world.log[A_CHECKPOINT - 1].hash.hex(), tree.packed().hex()
    world.when(
        cmd.RecordArchive(1, A_CHECKPOINT, "00" * 32, tip, frontier, "log.jsonl", "ef" * 32, "full disk")
    )


def _lead(world: World, epoch: int, key: ev.SigningKeySet) -> None:
    elected = ev.LeaderElected(
        epoch=epoch, host="h", pid=7, version=horizon.__version__, config_digest="ef", decisions=DECISIONS
    )
    world.head = replace(world.head, epoch=epoch)
    world.record(elected, key)


def facts(state: State) -> dict[str, Any]:
    """What a log folds to, in words that do not change when the projections do."""
    queue, now_us = state.queue, state.recorded_at_us
    return {
        "position": state.position,
        "recorded_at_us": state.recorded_at_us,
        "epoch": state.epoch,
        "cycle": state.cycle,
        "policy": {"version": state.policy_version, **to_builtins(state.policy)},
        "signing_keys": {str(at): key for at, key in state.signing_keys.items()},
        "versions": state.versions,
        "refusals": state.refusals.count,
        "archived_to": state.archived_to,
        "jobs": [_of_job(job) for job in state.numbered],
        "order": queue.order(len(queue), now_us),
        "nodes": {
            name: {
                "lost": node.lost,
                "cordoned": [node.cordoned, node.draining, node.drain_by_us, node.cordoned_by],
                "held": [node.cores_held, node.memory_held_mib, sorted(node.jobs)],
            }
            for name, node in state.nodes.items()
        },
        "holders": state.devices.holders,
        "failed": {device: [fault.by, fault.reason] for device, fault in state.devices.failed.items()},
        "bookings": {id: [list(one.nodes), one.start_us, one.end_us] for id, one in state.bookings.items()},
        "shares": [
            {
                "path": share.path,
                "user": share.user,
                "weight": queue.weight(share.id),
                "usage": queue.usage(share.id, now_us).hex(),
                "rate": queue.rate(share.id),
                "gpus": [share.gpus_held, share.max_gpus, share.guaranteed_gpus],
            }
            for share in state.shares
        ],
    }


def _of_job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state.value,
        "version": job.version,
        "attempt": job.attempt,
        "priority": job.priority.value,
        "time_limit_s": job.time_limit_s,
        "waits": [job.held, job.begin_pending, job.unmet, job.begin_at_us],
        "times": [job.created_at_us, job.scheduled_at_us, job.started_at_us, job.completed_at_us],
        "allocation": to_builtins(job.allocation),
        "allocation_state": job.allocation_state,
        "exit": [job.exit_code, job.signal],
        "reason": job.reason,
        "stop": [job.stop, job.stopped_by],
        "tries": [job.retries_used, job.attempts_lost, job.preempted, job.lost_gpu_us],
        "avoid": list(job.avoid),
        "predicted_us": job.predicted_us,
        "erased": job.erased,
    }


def files() -> dict[str, bytes]:
    """The golden log and its facts, by name; the same bytes every time."""
    world = history()
    signers = {}
    for one in world.log:
        if one.position % A_CHECKPOINT == 0:
            signers[one.position] = [FIRST] if one.epoch == 1 else [FIRST, SECOND]
    lines = exported(world.log, notes(world.log, signers))
    said = json.dumps(facts(world.state), sort_keys=True).encode()
    log = b"".join(line + b"\n" for line in lines)
    name = horizon.__version__
    return {f"{name}.jsonl.gz": _packed(log), f"{name}.facts.json.gz": _packed(said)}


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def main() -> None:
    for name, data in files().items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()

"""What the processes of an attempt get: their arguments and their environment."""

from __future__ import annotations

import zlib
from typing import Final

from horizon.executors.port import AttemptKey, Launch

NODE_ADDRESS: Final = "127.0.0.1"
"""Where any node of this executor is reached: all of them are this machine, whatever they are called."""
MASTER_PORT_FIRST: Final = 20_000
MASTER_PORTS: Final = 12_768
"""Up to 32767: above that Linux gives ports to whoever asks for just any."""


def arguments(launch: Launch) -> tuple[list[str], bool]:
    """What is executed, without the script that comes before it; and whether /bin/sh reads it."""
    if isinstance(launch.command, tuple):
        return list(launch.command), False
    if launch.script is not None:
        return [], True
    return ["/bin/sh", "-c", launch.command], True


def job_environment(launch: Launch, rank: int, checkpoint_file: str) -> dict[str, str]:
    """What rank ``rank`` gets beside the scheduler's own environment.

    **What it is**: ``HORIZON_*``. ``HORIZON_GPU_COUNT`` counts this node's; ``HORIZON_NODE_LIST`` and
    ``HORIZON_NODE_ADDRESSES`` are in the order of the ranks. Creating or touching
    ``HORIZON_CHECKPOINT_FILE`` says that the work so far is saved; the file is not there at first.

    **Its gang**, as ``torch.distributed`` wants it for ``init_method="env://"``: one process runs on each
    node, so ``RANK`` and ``NODE_RANK`` are its place, ``WORLD_SIZE`` is the number of nodes, and the others
    find rank 0 at ``MASTER_ADDR:MASTER_PORT``. A job on one node is a world of one, so the same script runs.
    For a process on every GPU let ``torchrun --nproc-per-node=gpu train.py`` start them: it takes the
    ``PET_*`` variables for its options of these names and gives each process its own ``RANK``,
    ``LOCAL_RANK`` and ``WORLD_SIZE``. ``LOCAL_RANK`` is not set here: libraries take it as a sign that every
    GPU has its process, and would leave all but the first of them idle.

    **What a job may replace** by variables of its own: whatever is the same for all ranks (the master, the
    size of the world, the order of the devices). Not its rank, not its GPUs, nor what Horizon says of it.
    """
    return _shared(launch) | _own(launch, rank) | {"HORIZON_CHECKPOINT_FILE": checkpoint_file}


def _shared(launch: Launch) -> dict[str, str]:
    size = str(len(launch.allocation))
    shared = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "MASTER_ADDR": NODE_ADDRESS,
        "MASTER_PORT": str(master_port(launch.key)),
        "WORLD_SIZE": size,
        "PET_NNODES": size,
        **launch.environment,
    }
    shared.setdefault("PET_MASTER_ADDR", shared["MASTER_ADDR"])
    shared.setdefault("PET_MASTER_PORT", shared["MASTER_PORT"])
    return shared


def _own(launch: Launch, rank: int) -> dict[str, str]:
    placement = launch.allocation[rank]
    own = {
        "CUDA_VISIBLE_DEVICES": ",".join(placement.gpu_ids),
        "RANK": str(rank),
        "NODE_RANK": str(rank),
        "PET_NODE_RANK": str(rank),
        "HORIZON_JOB_ID": launch.key.job_id,
        "HORIZON_JOB_NUMBER": str(launch.number),
        "HORIZON_JOB_NAME": launch.job_name,
        "HORIZON_ATTEMPT": str(launch.key.attempt),
        "HORIZON_ATTEMPT_ID": str(launch.key),
        "HORIZON_NODE": placement.node,
        "HORIZON_NODE_RANK": str(rank),
        "HORIZON_NODE_COUNT": str(len(launch.allocation)),
        "HORIZON_NODE_LIST": ",".join(each.node for each in launch.allocation),
        "HORIZON_NODE_ADDRESSES": ",".join(NODE_ADDRESS for _ in launch.allocation),
        "HORIZON_GPU_COUNT": str(len(placement.gpu_ids)),
    }
    if launch.array:
        own["HORIZON_ARRAY_NUMBER"] = str(launch.array)
        own["HORIZON_ARRAY_INDEX"] = str(launch.index)
    return own


def master_port(key: AttemptKey) -> int:
    """The port of an attempt's gang: every rank can tell it without asking, and the next attempt has another,
    should this one be taken."""
    return MASTER_PORT_FIRST + zlib.crc32(str(key).encode()) % MASTER_PORTS

"""What this machine has, found by NVML, or what a pretend cluster has, read from a short text."""

from __future__ import annotations

import os
import platform
import re
import uuid
from collections.abc import Iterator
from typing import Any, Final

import psutil

from horizon.core.limits import NAME_LENGTH_MAX
from horizon.core.model import Device, Inventory

MIB: Final = 1 << 20

SIMULATED_CORES_PER_GPU: Final = 16
SIMULATED_MEMORY_MIB_PER_GPU: Final = 128 * 1024
"""A pretend node pretends to be one of a data centre, whatever this laptop has."""
SIMULATED_DEVICES_MAX: Final = 100_000
_SIMULATED_UUIDS: Final = uuid.UUID("6f1c8f0e-2f0a-5c55-9a55-3a1f7a0b9d11")
"""The name space of pretend devices; changing it would rename every one."""

GPU_MEMORY_MIB: Final = {
    "GB200": 188_416,
    "B300": 294_912,
    "B200": 183_359,
    "H200": 143_771,
    "H100": 81_559,
    "H800": 81_559,
    "H20": 97_871,
    "GH200": 97_871,
    "A100": 81_920,
    "A800": 81_920,
    "A40": 46_068,
    "A30": 24_576,
    "A10": 23_028,
    "A10G": 23_028,
    "A16": 15_356,
    "A2": 15_356,
    "L40S": 46_068,
    "L40": 46_068,
    "L4": 23_034,
    "T4": 15_360,
    "V100": 32_768,
    "P100": 16_280,
    "A6000": 49_140,
    "RTX6000ADA": 49_140,
    "RTX5090": 32_607,
    "RTX4090": 24_564,
    "RTX3090": 24_576,
}
"""What NVML says of the common types, for pretend devices."""
GPU_MEMORY_MIB_UNKNOWN: Final = 16 * 1024

SPEC_GRAMMAR: Final = (
    "a comma-separated list of [NODES*]GPUSxTYPE, such as 8xH100, 4*8xH100 or 2*8xH100,4xA100: "
    f"numbers from 1, {SIMULATED_DEVICES_MAX} GPUs at most in all, "
    "a type of letters, digits, '.', '_' and '-'"
)
_SPEC_PART: Final = re.compile(
    r"(?:(?P<nodes>[0-9]{1,9})\*)?(?P<gpus>[0-9]{1,9})x"
    rf"(?P<type>[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}})"
)


class InventoryError(Exception):
    """The GPUs of this machine cannot be found; the message is one sentence and names the way out."""


class BadSimulationSpec(ValueError):
    """The text does not describe pretend devices; the message shows the grammar."""

    def __init__(self, spec: str, why: str) -> None:
        super().__init__(f"{spec[:80]!r}: {why}; pretend GPUs are written as {SPEC_GRAMMAR}")


# Pretend devices


def simulated(spec: str) -> tuple[Inventory, ...]:
    """The nodes ``node-1``, ``node-2``, ... of a pretend cluster such as ``2*8xH100,4xA100``.

    The same text gives the same devices for ever, so a restart finds those it had. Raises
    ``BadSimulationSpec``.
    """
    shapes = [shape for part in spec.split(",") for shape in _node_shapes(spec, part.strip())]
    if (total := sum(nodes * gpus for nodes, gpus, _ in shapes)) > SIMULATED_DEVICES_MAX:
        raise BadSimulationSpec(spec, f"{total} GPUs are too many")
    nodes = ((gpus, gpu_type) for count, gpus, gpu_type in shapes for _ in range(count))
    return tuple(_simulated_node(f"node-{place}", *shape) for place, shape in enumerate(nodes, start=1))


def _node_shapes(spec: str, part: str) -> Iterator[tuple[int, int, str]]:
    match = _SPEC_PART.fullmatch(part)
    if match is None:
        raise BadSimulationSpec(spec, f"cannot read {part[:80]!r}" if part else "a part is empty")
    nodes, gpus = int(match["nodes"] or 1), int(match["gpus"])
    if not nodes or not gpus:
        raise BadSimulationSpec(spec, f"{part!r} has no GPUs")
    yield nodes, gpus, match["type"]


def _simulated_node(name: str, gpu_count: int, gpu_type: str) -> Inventory:
    memory_mib = GPU_MEMORY_MIB.get(gpu_type.upper(), GPU_MEMORY_MIB_UNKNOWN)
    return Inventory(
        name=name,
        cpu_cores=gpu_count * SIMULATED_CORES_PER_GPU,
        memory_mib=gpu_count * SIMULATED_MEMORY_MIB_PER_GPU,
        devices=tuple(
            Device(f"GPU-{uuid.uuid5(_SIMULATED_UUIDS, f'{name}/{index}')}", index, gpu_type, memory_mib)
            for index in range(gpu_count)
        ),
        simulated=True,
    )


# Real devices


def discover() -> Inventory:
    """This machine: its NVIDIA GPUs, the CPU cores that this process may use, its memory.

    Raises ``InventoryError`` when there is no driver, no NVML library, or NVML fails.
    """
    return Inventory(
        name=(platform.node() or "localhost")[:NAME_LENGTH_MAX],
        cpu_cores=_usable_cores(),
        memory_mib=psutil.virtual_memory().total // MIB,
        devices=_find_devices(),
    )


def without_gpus() -> Inventory:
    """This machine as a node for CPU jobs only."""
    return Inventory(
        name=(platform.node() or "localhost")[:NAME_LENGTH_MAX],
        cpu_cores=_usable_cores(),
        memory_mib=psutil.virtual_memory().total // MIB,
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find_devices() -> tuple[Device, ...]:
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise InventoryError(_no_gpus("the Python package nvidia-ml-py is not installed")) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise InventoryError(_no_gpus(_why_no_nvml(pynvml, error))) from None
    try:
        count = pynvml.nvmlDeviceGetCount()
        return tuple(device for index in range(count) for device in _devices_at(pynvml, index))
    except pynvml.NVMLError as error:
        raise InventoryError(_no_gpus(f"NVML cannot list the GPUs: {error}")) from None
    finally:
        pynvml.nvmlShutdown()


def _no_gpus(why: str) -> str:
    return (
        f"No NVIDIA GPU can be found: {why}; --simulate-gpus 8xH100 gives pretend ones with real processes."
    )


def _why_no_nvml(pynvml: Any, error: Exception) -> str:
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return "the NVML library (libnvidia-ml.so.1, part of the NVIDIA driver) is not on this machine"
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA kernel driver is not loaded, or /dev/nvidia* is hidden from this process"
    if isinstance(error, pynvml.NVMLError_NoPermission):
        return "this user may not talk to the NVIDIA driver"
    return f"NVML does not start: {error}"


def _devices_at(pynvml: Any, index: int) -> Iterator[Device]:
    """The GPU with this index, or its slices when MIG is on: the whole is not to be had then."""
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    gpu_type = short_type(_text(pynvml.nvmlDeviceGetName(gpu)))
    if not _mig_is_on(pynvml, gpu):
        yield _device(pynvml, gpu, index, gpu_type)
        return
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            slice_ = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
        except pynvml.NVMLError_NotFound:
            continue
        yield _device(pynvml, slice_, index, _slice_type(gpu_type, _text(pynvml.nvmlDeviceGetName(slice_))))


def _mig_is_on(pynvml: Any, gpu: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(gpu)
    except pynvml.NVMLError:  # a type that has no such mode
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _device(pynvml: Any, handle: Any, index: int, gpu_type: str) -> Device:
    memory_mib = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // MIB
    return Device(_text(pynvml.nvmlDeviceGetUUID(handle)), index, gpu_type, memory_mib)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


_FILLERS: Final = frozenset({"NVIDIA", "TESLA", "QUADRO", "GEFORCE", "GRAPHICS", "GPU", "DEVICE"})
"""Words before the model; what follows it says how it is built in, which nobody asks for."""
_MIG_PROFILE: Final = re.compile(r"\b[0-9]+g\.[0-9]+gb\b", re.IGNORECASE)


def short_type(product: str) -> str:
    """``H100`` of ``NVIDIA H100 80GB HBM3``, ``RTX4090`` of ``NVIDIA GeForce RTX 4090``."""
    words = [word for word in re.split(r"[\s/]+", product.partition(" MIG ")[0]) if word]
    models = [word for word in words if word.upper() not in _FILLERS] or ["GPU"]
    family, model, kind = (*models, "", "")[:3]
    if family.upper() not in ("RTX", "GTX", "TITAN") or not model:
        return _clean(family.partition("-")[0])
    if not model[0].isdigit() and family.upper() == "RTX":
        return _clean(model)
    return _clean(family + model + (kind if kind.upper() in ("TI", "SUPER", "ADA") else ""))


def _slice_type(gpu_type: str, product: str) -> str:
    """``H100-1g.10gb``: a slice is asked for by its own type, never taken for the whole."""
    profile = _MIG_PROFILE.search(product)
    return _clean(f"{gpu_type}-{profile[0].lower()}" if profile else f"{gpu_type}-mig")


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "", text)[:NAME_LENGTH_MAX] or "GPU"

"""What this machine has, found by NVML, or what a pretend cluster has, read from a short text."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import psutil

from horizon.core.limits import LABELS_MAX, NAME_LENGTH_MAX
from horizon.core.model import Device, Inventory
from horizon.executors import topology
from horizon.executors.topology import Spot

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
    "a comma-separated list of [NODES*]GPUSxTYPE[@LABEL=VALUE...], such as 8xH100, 2*8xH100,4xA100 or "
    "4*8xH100@rack=r1,4*8xH100@rack=r2: "
    f"numbers from 1, {SIMULATED_DEVICES_MAX} GPUs at most in all, "
    "types, labels and values of letters, digits, '.', '_' and '-'"
)
_WORD: Final = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}"
_SPEC_PART: Final = re.compile(
    rf"(?:(?P<nodes>[0-9]{{1,9}})\*)?(?P<gpus>[0-9]{{1,9}})x(?P<type>{_WORD})(?P<labels>(?:@{_WORD}={_WORD})*)"
)


class InventoryError(Exception):
    """The GPUs of this machine cannot be found; the message is one sentence and names the way out."""


class BadSimulationSpec(ValueError):
    """The text does not describe pretend devices; the message shows the grammar."""

    def __init__(self, spec: str, why: str) -> None:
        super().__init__(f"{spec[:80]!r}: {why}; pretend GPUs are written as {SPEC_GRAMMAR}")


# Pretend devices


class _Shape(NamedTuple):
    """So many nodes that are all alike."""

    nodes: int
    gpus: int
    gpu_type: str
    labels: dict[str, str]


def simulated(spec: str) -> tuple[Inventory, ...]:
    """The nodes ``node-1``, ``node-2``, ... of a pretend cluster such as ``2*8xH100,4xA100@rack=r2``.

    The same text gives the same devices for ever, so a restart finds those it had. Raises
    ``BadSimulationSpec``.
    """
    shapes = [_shape(spec, part.strip()) for part in spec.split(",")]
    if (total := sum(shape.nodes * shape.gpus for shape in shapes)) > SIMULATED_DEVICES_MAX:
        raise BadSimulationSpec(spec, f"{total} GPUs are too many")
    nodes = (shape for shape in shapes for _ in range(shape.nodes))
    return tuple(_simulated_node(f"node-{place}", shape) for place, shape in enumerate(nodes, start=1))


def _shape(spec: str, part: str) -> _Shape:
    match = _SPEC_PART.fullmatch(part)
    if match is None:
        raise BadSimulationSpec(spec, f"cannot read {part[:80]!r}" if part else "a part is empty")
    nodes, gpus = int(match["nodes"] or 1), int(match["gpus"])
    if not nodes or not gpus:
        raise BadSimulationSpec(spec, f"{part!r} has no GPUs")
    pairs = [label.partition("=")[::2] for label in match["labels"].split("@")[1:]]
    labels = dict(pairs)
    if len(labels) < len(pairs) or len(labels) > LABELS_MAX:
        raise BadSimulationSpec(spec, f"{part[:80]!r} has a label twice, or more than {LABELS_MAX}")
    return _Shape(nodes, gpus, match["type"], labels)


def _simulated_node(name: str, shape: _Shape) -> Inventory:
    memory_mib = GPU_MEMORY_MIB.get(shape.gpu_type.upper(), GPU_MEMORY_MIB_UNKNOWN)
    return Inventory(
        name=name,
        cpu_cores=shape.gpus * SIMULATED_CORES_PER_GPU,
        memory_mib=shape.gpus * SIMULATED_MEMORY_MIB_PER_GPU,
        devices=tuple(
            Device(_simulated_uuid(name, index), index, shape.gpu_type, memory_mib, *spot)
            for index, spot in enumerate(topology.pretended(shape.gpus, shape.gpu_type))
        ),
        labels=shape.labels,
        simulated=True,
    )


def _simulated_uuid(node: str, index: int) -> str:
    return f"GPU-{uuid.uuid5(_SIMULATED_UUIDS, f'{node}/{index}')}"


# Real devices


def discover(labels: Mapping[str, str] | None = None) -> Inventory:
    """This machine, so labelled: its NVIDIA GPUs, the CPU cores that this process may use, its memory.

    Raises ``InventoryError`` when there is no driver, no NVML library, or NVML fails. A GPU that the driver
    has lost is left out.
    """
    return _this_machine(_find_devices(), labels)


def without_gpus(labels: Mapping[str, str] | None = None) -> Inventory:
    """This machine, so labelled, as a node for CPU jobs only."""
    return _this_machine((), labels)


def _this_machine(devices: tuple[Device, ...], labels: Mapping[str, str] | None) -> Inventory:
    return Inventory(
        name=(platform.node() or "localhost")[:NAME_LENGTH_MAX],
        cpu_cores=_usable_cores(),
        memory_mib=psutil.virtual_memory().total // MIB,
        devices=devices,
        labels=dict(labels or {}),
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
        gpus = _gpus(pynvml)
        spots = topology.spots(pynvml, list(gpus.values()))
        return tuple(
            device
            for (index, gpu), spot in zip(gpus.items(), spots, strict=True)
            for device in _devices_of(pynvml, index, gpu, spot)
        )
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


def _gpus(pynvml: Any) -> dict[int, Any]:
    """The NVML handles of the GPUs by index. One that fell off the bus does not take the others along."""
    gpus: dict[int, Any] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError_GpuIsLost):
            gpus[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
    return gpus


def _devices_of(pynvml: Any, index: int, gpu: Any, spot: Spot) -> Iterator[Device]:
    gpu_type = short_type(_text(pynvml.nvmlDeviceGetName(gpu)))
    for part in parts(pynvml, gpu):
        product = _text(pynvml.nvmlDeviceGetName(part))
        yield Device(
            uuid_of(pynvml, part),
            index,
            gpu_type if part is gpu else _slice_type(gpu_type, product),
            int(pynvml.nvmlDeviceGetMemoryInfo(part).total) // MIB,
            *spot,
        )


def parts(pynvml: Any, gpu: Any) -> list[Any]:
    """The NVML handles of what a GPU can be had as: itself, or its slices when MIG is on."""
    if not _mig_is_on(pynvml, gpu):
        return [gpu]
    slices = []
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(pynvml.NVMLError_NotFound):
            slices.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place))
    return slices


def uuid_of(pynvml: Any, handle: Any) -> str:
    return _text(pynvml.nvmlDeviceGetUUID(handle))


def _mig_is_on(pynvml: Any, gpu: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(gpu)
    except pynvml.NVMLError:  # a type that has no such mode
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


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

"""Which devices of this machine are well. A source finds out, a ``Watch`` asks it now and then and reports
what has changed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from horizon.core.commands import FailDevice, RecoverDevice
from horizon.core.model import Inventory
from horizon.executors.inventory import parts, uuid_of

FAILED_DEVICES_FILE: Final = "failed-devices"
"""In the data directory: the pretend devices that are to count as broken."""
FAILED_DEVICES_BYTES_MAX: Final = 1 << 20
"""Some 20,000 lines; what comes after is not read."""
REASON_LENGTH_MAX: Final = 300
_NO_REASON: Final = f"named in the file {FAILED_DEVICES_FILE}"
FILE_EVERY_S: Final = 1.0
NVML_EVERY_S: Final = 30.0


class Look(NamedTuple):
    """What a source saw. A device that is in neither is well."""

    unwell: dict[str, str]
    """Devices that must not be used, and why."""
    unsure: frozenset[str] = frozenset()
    """Devices it could not look at just now: what was said of them last still holds."""


class Source(Protocol):
    """Knows how some devices are."""

    devices: frozenset[str]
    every_s: float
    """How long to rest between two looks."""

    def look(self) -> Look:
        """Called in a thread, which it may hold up for as long as it likes."""
        ...


def sources_for(inventories: Iterable[Inventory], failed_devices: Path) -> list[Source]:
    """One for the pretend devices among these, one for the real ones."""
    devices: dict[bool, list[str]] = {True: [], False: []}
    for inventory in inventories:
        devices[inventory.simulated] += (device.uuid for device in inventory.devices)
    sources: list[Source] = []
    if devices[True]:
        sources.append(FileHealth(failed_devices, frozenset(devices[True])))
    if devices[False]:
        sources.append(NvmlHealth(frozenset(devices[False])))
    return sources


# Watching


class Watch:
    """Asks one source again and again, in a thread of its own, and reports what has changed.

    Not in one of the event loop's threads: a broken GPU can hold a driver call for ever, and those are waited
    for when the program ends. Made on the event loop, on which it reports, too.
    """

    def __init__(
        self, source: Source, failed: frozenset[str], report: Callable[[FailDevice | RecoverDevice], None]
    ) -> None:
        """``failed`` are the devices that were reported before."""
        self._source = source
        self._failed = set(failed & source.devices)
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="health", daemon=True).start()

    def stop(self) -> None:
        """Nothing is reported from here on; the thread ends when it can."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            look = self._source.look()
            with contextlib.suppress(RuntimeError):  # the loop is closed, and whoever was told with it
                self._loop.call_soon_threadsafe(self._hear, look)
            self._stopped.wait(self._source.every_s)

    def _hear(self, look: Look) -> None:
        if self._stopped.is_set():
            return
        for change in changes(self._failed, look, self._source.devices):
            if isinstance(change, FailDevice):
                self._failed.add(change.device)
            else:
                self._failed.remove(change.device)
            self._report(change)


def changes(failed: set[str], look: Look, devices: frozenset[str]) -> list[FailDevice | RecoverDevice]:
    """What is new in a look, given which of ``devices`` had failed before. O(failed then and now)."""
    fails = [
        FailDevice(device, reason)
        for device, reason in sorted(look.unwell.items())
        if device in devices and device not in failed
    ]
    recovers = [RecoverDevice(device) for device in sorted(failed - look.unwell.keys() - look.unsure)]
    return [*fails, *recovers]


# Pretend devices


class FileHealth:
    """Pretend devices break when a file names them, and are well again when it does not.

    A line is a UUID and, if anyone cares to say, the reason. No file is as good as an empty one.
    """

    every_s = FILE_EVERY_S

    def __init__(self, path: Path, devices: frozenset[str]) -> None:
        self.devices = devices
        self._path = path

    def look(self) -> Look:
        try:
            with open(self._path, "rb") as file:
                text = file.read(FAILED_DEVICES_BYTES_MAX).decode("utf-8", "replace")
        except FileNotFoundError:
            return Look({})
        except OSError:
            return Look({}, self.devices)
        return Look(parse_failed_devices(text))


def parse_failed_devices(text: str) -> dict[str, str]:
    """Device and reason of every line that has any; the first line on a device counts."""
    failed: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        device, *reason = line.split(maxsplit=1)
        failed.setdefault(device, reason[0][:REASON_LENGTH_MAX] if reason else _NO_REASON)
    return failed


# Real devices


class Vitals(NamedTuple):
    """What the driver says of a GPU, as far as its type and the driver have it."""

    recovery_action: int = 0
    """What the driver itself says must be done before the GPU can be used; it raises it for the fatal ones
    among the errors that it also logs as Xid."""
    uncorrectable_errors: int = 0
    """In memory, since the driver was loaded or the GPU was reset."""
    remapping_failed: int = 0
    """Whether a faulty memory row could not be replaced by a spare one, ever."""
    pages_pending: int = 0
    """Whether faulty memory pages are only waiting to be retired."""


_FIELDS: Final = {
    "recovery_action": "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION",
    "uncorrectable_errors": "NVML_FI_DEV_ECC_DBE_VOL_TOTAL",
    "remapping_failed": "NVML_FI_DEV_REMAPPED_FAILURE",
    "pages_pending": "NVML_FI_DEV_RETIRED_PENDING_DBE",
}
_ACTIONS: Final = {
    1: "this GPU must be reset",
    2: "this machine must be restarted",
    3: "this GPU's traffic with its peers must stop",
    4: "this GPU must be emptied and reset",
}


def verdict(vitals: Vitals) -> str:
    """Why a GPU with these must not be used; empty when it is well.

    A row that waits to be remapped is not among the reasons: until then the driver keeps work away from it.
    """
    if action := vitals.recovery_action:
        return f"the driver says: {_ACTIONS.get(action, f'recovery action {action} is needed')}"
    if vitals.remapping_failed:
        return "a faulty memory row could not be replaced: this GPU is to be exchanged"
    if errors := vitals.uncorrectable_errors:
        return f"{errors} uncorrectable memory error{'s' * (errors > 1)} since its last reset"
    if vitals.pages_pending:
        return "faulty memory pages wait to be retired: this GPU must be reset"
    return ""


class NvmlHealth:
    """Real devices, by what NVML says of their state now. Its events are not used: what happened before one
    listens is never told.

    NVML is let go after each look, since a GPU that someone holds open cannot be reset. Where nothing else
    keeps the driver loaded (persistence mode does), it is loaded anew for each look, and the error counters
    of an idle GPU begin at 0: then the errors of a job are seen while it runs, or not at all.
    """

    every_s = NVML_EVERY_S

    def __init__(self, devices: frozenset[str]) -> None:
        self.devices = devices

    def look(self) -> Look:
        nothing = Look({}, self.devices)
        try:
            import pynvml  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            return nothing
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_LibRmVersionMismatch) as error:
            return Look(dict.fromkeys(self.devices, f"the NVIDIA driver cannot be used: {error}"))
        except pynvml.NVMLError:
            return nothing
        try:
            return self._look_at_all(pynvml)
        except pynvml.NVMLError:
            return nothing
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _look_at_all(self, pynvml: Any) -> Look:
        """By index, since a look-up by UUID fails for every GPU while any is lost."""
        unwell: dict[str, str] = {}
        well: set[str] = set()
        all_answered = True
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                devices, why = _look_at_one(pynvml, index)
            except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired):
                continue
            except pynvml.NVMLError:
                all_answered = False
                continue
            if why:
                unwell.update(dict.fromkeys(devices, why))
            else:
                well.update(devices)
        missing = self.devices.difference(well, unwell)
        if not all_answered:
            return Look(unwell, missing)
        return Look(unwell | dict.fromkeys(missing, "the driver has lost this GPU, or it was taken away"))


def _look_at_one(pynvml: Any, index: int) -> tuple[list[str], str]:
    """The devices that the GPU with this index is to us, and why none of them may be used, if so."""
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    devices = [uuid_of(pynvml, part) for part in parts(pynvml, gpu)]
    return devices, _why_unwell(pynvml, gpu)


def _why_unwell(pynvml: Any, gpu: Any) -> str:
    """Raises ``NVMLError`` when the GPU does not answer, and when it cannot be told to be well."""
    names = {getattr(pynvml, field): name for name, field in _FIELDS.items() if hasattr(pynvml, field)}
    known: dict[str, int] = {}
    trouble = pynvml.NVML_SUCCESS
    for value in pynvml.nvmlDeviceGetFieldValues(gpu, list(names)):
        if value.nvmlReturn == pynvml.NVML_SUCCESS:
            known[names[value.fieldId]] = _number(pynvml, value)
        elif value.nvmlReturn not in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT):
            trouble = value.nvmlReturn  # it is there for this GPU and this driver, but not just now
    why = verdict(Vitals(**known))
    if not why and trouble != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(trouble)
    return why


def _number(pynvml: Any, value: Any) -> int:
    """A field's value, which is in the member of a union that its type names; 0 for what is no number."""
    members = {
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    }
    member = members.get(value.valueType)
    return int(getattr(value.value, member)) if member else 0

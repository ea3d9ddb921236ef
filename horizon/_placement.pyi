"""Which devices, and when: the nodes of the cluster, what is free on them, and plans over both, compiled.

``Cluster`` holds what every node has, what is held of it and until when that is expected. ``Plan`` is one
cycle's view of it: what is free now and at any time after, less what the plan has given away or promised
already. A plan leaves the cluster as it is. Both are derived state: the fold of the log rebuilds them.

**Resources of a node** are seats, cores, memory and, by kind, devices. Every job takes one seat; an
exclusive job and a booking take all of them, so each keeps everybody else out. Cores and memory of 0 reserve
none. What a part needs none of is never too little, even where less than nothing is free.

**Time.** A hold gives back what it has at its expected end; one whose expected end has passed is expected
back one microsecond from now, at every now. A booking takes the node's seats from its start to its end, or
to one microsecond from now when that is later. Between these moments nothing changes, so what a node has
free over time is a step function, and a request with a duration *fits* a node at a time t if the node has
room for it throughout [t, t + duration). What would come back at 2**62 or later never does.

**Parts.** A request for several nodes is split as evenly as whole numbers allow into one part a node, the
larger ones first: part i of an amount over n nodes is ``amount // n + (i < amount % n)``. All its devices
are of one kind. ``nodes_for`` says over how many nodes a request is split.

**Choice.** A node is the *tighter*, the fewer devices of the kind are free on it now; for a request without
devices, the fewer of all kinds together, then the fewer cores.

- A single-node request takes the tightest node where it fits now. Of nodes equally tight the first
  ``TOPOLOGY_TRIED`` of each kind, in order of their index, are compared by the devices it would get there:
  the fewest link groups, then NUMA nodes, then PCIe roots, where to be in none counts as one group more.
  Then the smallest kind wins, then the smallest index. Without devices, it is the smallest index at once.
- A gang stays within the nearest domain (``set_node``) that has room for all of it, of several the one with
  the fewest nodes where any part fits, then with the smallest number; if none has, it goes anywhere. There
  each part, the larger ones first, takes the tightest node left where it fits, then the smallest index. Of
  several kinds, with a choice of nodes each, the one whose tightest node is tightest wins, then the
  smallest.

**Devices of a node**, for n of one kind: from one group of the smallest grouping (PCIe roots, NUMA nodes,
link groups, the node itself) in which a group has n free, the one with the fewest free. Within it the same
is asked of the next smaller grouping; where no group has enough, the one with the most free is taken whole,
and the rest is sought among the others. In the end, and without topology, it is the lowest free slots.

A grouping that is not set on every device of the kind is not used here, and its size is that of its largest
group; of equal ones link groups come first, PCIe roots last. Of equal groups it is the one with the lowest
free slot.

**Answers.** A plan keeps the answer to its last question: ``place`` for ``take``, ``earliest`` for
``reserve``, ``fits`` for ``claim``, to be used once. ``imagine``, ``idle`` and refused calls leave it. Every
change of the cluster ends its plans, which a new request is not, nor are ``expect``, ``release`` and
``unbook`` that change nothing.

**Bounds.** Cores and memory are 0 to 2**50, times 0 to 2**61, durations 1 to 2**61. Jobs are numbered from 1
to 2**63 - 1, bookings from 1 to 2**30. Other numbers are 0 to 2**30, or -1 where that means none or any.

Integers throughout. Calling the same methods with the same arguments gives the same results on every
platform. ``ValueError`` for a value that may not be, ``OverflowError`` for one far beyond its bounds,
``KeyError`` for a node, kind or request that does not exist, ``RuntimeError`` for a plan whose cluster has
changed, ``MemoryError``; nothing has changed then.
"""

from collections.abc import Sequence
from typing import Final, final

TOPOLOGY_TRIED: Final[int]
"""Nodes of one kind and of equal tightness whose topology is compared."""
SPLITS_TRIED: Final[int]
"""Sizes tried by ``nodes_for`` for a request that says none."""
LOST: Final[int]
"""A node that is not there: it has nothing."""
CORDONED: Final[int]
"""A node that takes no new work, and counts for what could ever fit."""
OPEN: Final[int]
"""A node that takes work."""
VERDICTS: Final[tuple[str, ...]]
"""What ``Plan.survey`` counts nodes by: "fits", "closed", "labels", "kind", "small", "shared", "devices",
"cores", "memory", "reserved"."""

@final
class Cluster:
    """The nodes. Not thread-safe beyond the interpreter's lock."""

    def __new__(cls) -> Cluster: ...

    # What there is.

    def add_kind(self, gpu_type: int, memory_mib: int) -> int:
        """A new kind of device, 0, 1, 2 ...: a type, by a number from 0, and the memory of each device."""

    def add_node(self) -> int:
        """A new node, 0, 1, 2 ..., that is LOST and has nothing."""

    def set_node(
        self,
        node: int,
        cores: int,
        memory_mib: int,
        devices: Sequence[tuple[int, int, int, int]],
        labels: Sequence[int] = ...,
        domains: Sequence[int] = ...,
    ) -> None:
        """Gives a node this inventory, all of it usable and free: what was held or booked is forgotten.

        A device is (kind, link group, NUMA node, PCIe root), the last three numbers of the node's own, -1 for
        none; its place in the sequence is its slot. Labels are numbers, as in requests. Domains are numbers,
        at most 4, the nearest first, -1 for none: nodes with the same are connected closely; a plan takes
        memory for every number up to the largest. O(devices squared).
        """

    def set_state(self, node: int, state: int) -> None:
        """LOST, CORDONED or OPEN. O(1)."""

    def set_device(self, node: int, slot: int, usable: bool) -> None:
        """Whether a device may be given out. One that is held stays held. O(devices x (devices + holds))."""

    def state(self, node: int) -> int: ...
    def free(self, node: int) -> tuple[int, int, tuple[int, ...]]:
        """Free cores, memory, and the slots of free usable devices, whatever the node's state."""

    def __len__(self) -> int:
        """The number of nodes."""

    # What is held.

    def hold(
        self,
        node: int,
        number: int,
        slots: Sequence[int],
        cores: int,
        memory_mib: int,
        exclusive: bool,
        end_us: int,
        seats: bool = ...,
    ) -> None:
        """A job holds this much on the node, and is expected to end then. With ``seats`` false it takes no
        seat: it holds devices here that it was given elsewhere. ValueError when a slot is held already or the
        job holds something here; whether a device may be given out does not matter. Cores and memory may
        become negative. O(devices + holds of the node)."""

    def expect(self, node: int, number: int, end_us: int) -> None:
        """The job is now expected to end then; nothing happens if it holds nothing here. O(holds)."""

    def release(self, node: int, number: int) -> None:
        """What the job holds on the node is free; nothing happens if it holds nothing. O(devices + holds)."""

    def book(self, node: int, booking: int, start_us: int, end_us: int) -> None:
        """Keeps the node from new jobs that would run into [start, end). ValueError when the node has a
        booking of that number. O(bookings of the node)."""

    def unbook(self, node: int, booking: int) -> None:
        """Ends a booking on the node; nothing happens if there is none of that number."""

    # What is asked for.

    def add_request(
        self,
        gpus: int,
        gpu_type: int,
        gpu_memory_mib: int,
        cores: int,
        memory_mib: int,
        nodes: int,
        exclusive: bool,
        labels: Sequence[int] = ...,
    ) -> int:
        """A new request, 0, 1, 2 ...: devices in all of a type (-1 for any) with at least that much memory
        each, cores and memory in all, a number of nodes (0 for as few as can ever hold it), nodes for itself
        alone, and labels that every node must have. ValueError when it asks for devices, but for fewer than
        nodes."""

    def nodes_for(self, request: int, avoid: Sequence[int] = ...) -> int:
        """Over how many nodes the request is split: as many as it says; else one if any node can ever hold
        it; else as few as can. 0 if this cluster never can, were it empty, with nodes that are OPEN or
        CORDONED and not among ``avoid``.

        Every part of a size that is tried has a device or, without devices, a core: memory alone is split
        only with them. ``SPLITS_TRIED`` sizes are tried, beginning with as many nodes as would do if each had
        as many devices of one kind that will do, or cores, as any of these nodes with the labels has.

        O(nodes x sizes), O(1) when asked again without ``avoid`` and no node, state or device has changed."""

    def plan(self, now_us: int) -> Plan:
        """A plan as of now. O(nodes) bytes are copied and zeroed."""

    # Snapshots.

    def dump(self) -> tuple[object, ...]:
        """All that anything here depends on, in lists and integers. A cluster made of it by ``load`` gives
        the same answers, whatever both are asked from then on. O(devices + holds + bookings + requests)."""

    @staticmethod
    def load(dump: tuple[object, ...]) -> Cluster:
        """The cluster that was dumped. ValueError, KeyError, TypeError or OverflowError for what no cluster
        gives. O(devices squared of each node + the rest)."""

    def memory_bytes(self) -> int:
        """Allocated now, without this object itself. O(nodes)."""

@final
class Plan:
    """What is free now and later, less what this plan gives away. Made by ``Cluster.plan``."""

    def place(
        self,
        request: int,
        duration_us: int,
        avoid: Sequence[int] = ...,
        only: Sequence[int] | None = ...,
        over_reserved: bool = ...,
    ) -> list[tuple[int, tuple[int, ...]]] | None:
        """Where the request fits from now on for this long: (node, slots) for each part in order; None when
        it does not, or this cluster never can hold it. Only nodes that are OPEN, not in ``avoid``, and in
        ``only`` if given, count; with either the number of parts is as if the other nodes were not there, for
        ``avoid``, and as ever, for ``only``. Slots grow within a node. With ``over_reserved`` it is as if
        nothing were reserved in this plan: what it took and claimed still counts, and so do bookings.

        A node and a bucket of nodes without room cost a nanosecond; a gang is O(nodes log nodes). With
        ``only`` no other node is looked at."""

    def fits(
        self,
        request: int,
        duration_us: int,
        avoid: Sequence[int] = ...,
        only: Sequence[int] | None = ...,
        gone: Sequence[int] = ...,
        over_reserved: bool = ...,
    ) -> tuple[int, ...] | None:
        """The nodes ``place`` would choose, were the holds of the jobs in ``gone`` released already."""

    def take(self) -> None:
        """Gives away what ``place`` found last: it is not free from now to now + duration. RuntimeError when
        there is nothing to take."""

    def earliest(
        self, request: int, duration_us: int, avoid: Sequence[int] = ...
    ) -> tuple[int, tuple[int, ...]] | None:
        """The earliest time from now on at which the request fits for this long, and the nodes, one a part.
        None when it never does. If several kinds would do at that time, it is the smallest. The nodes are
        chosen as for ``place`` among those that fit then, and are the tighter the less is free on them *now*;
        for a single node the devices it would get are not compared.

        Single-node requests: O(nodes x holds) at worst, less where nodes cannot beat the best so far. Gangs:
        a few rounds of that and of sorting."""

    def reserve(self) -> None:
        """Promises what ``earliest`` found last: it is not free from then to then + duration. RuntimeError
        when there is nothing to reserve."""

    def claim(self) -> None:
        """Keeps what ``fits`` found last from now to now + duration, even where it is not free yet: jobs in
        ``gone`` still hold what they hold and reservations stand, so what is free there may fall below zero,
        and nobody else gets it. RuntimeError when there is nothing to claim."""

    def survey(self, request: int, duration_us: int, avoid: Sequence[int] = ...) -> tuple[int, ...]:
        """How many nodes there are by the first reason why the largest part does not fit there now, in the
        order of ``VERDICTS``: fits; closed (not OPEN, or avoided); lacks labels; has no device of such a
        kind, usable or not; is too small for it were it empty; is shared with others or exclusively
        another's, bookings aside; has too few free devices; too few free cores; too little free memory; is
        reserved or booked before it would end.

        LOST nodes are not counted. Of several kinds on a node the one that gets furthest counts. A request
        that can never fit is split over as many nodes as it says, or one. O(nodes x holds)."""

    def imagine(
        self,
        gpus: int,
        gpu_type: int,
        gpu_memory_mib: int,
        cores: int,
        memory_mib: int,
        nodes: int,
        exclusive: bool,
        labels: Sequence[int] = ...,
    ) -> int:
        """A request of this plan's own, to ask what would be if; the next one replaces it. Arguments as for
        ``Cluster.add_request``; gives its number, -1, for the other methods."""

    def nodes_for(self, request: int) -> int:
        """The same as ``Cluster.nodes_for``, for the plan's own request too."""

    def idle(self) -> bool:
        """Whether any OPEN node has a device free now that this plan has not given away, of whatever kind and
        whether anybody could use it or not. O(kinds)."""

    def offer(self, request: int, empty: bool = ...) -> tuple[int, int, int]:
        """The nodes that may be used for a request now, by state, labels and seats, and the free devices of
        all kinds that will do, or cores when it asks for no device: in all, and the most on one node. Seats
        are those that are free now of jobs, of bookings and of this plan, devices and cores those that are
        free now of jobs and of this plan.

        With ``empty`` all that may be given out counts, as if nothing were held, booked or reserved, on
        CORDONED nodes too. O(nodes)."""

    @property
    def now_us(self) -> int: ...

"""The waiting jobs and the share tree, compiled: who is next.

``JobQueue`` holds every waiting job, by its number, and the tree of accounts and users with what each has
used and holds. It is derived state: the fold of the log rebuilds it, and it is never the source of truth.

**Order.** Priority first. Inside a priority the tree is walked from the root; at each level the child with
the smallest score goes first, ties by the oldest waiting job of that priority below it; at a leaf, the
smallest number. A job that returns to the queue returns to the place its number gives it. The score of a
share is ``(decayed usage + rate held x charge ahead) / weight``.

**Decay** is forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward Decay: A Practical Time Decay
Model for Streaming Systems", ICDE 2009). Usage is stored inflated by ``2 ** ((now - landmark) /
half-life)``, so a share that holds nothing keeps its place among the others as time passes. Usage is
charged by the exact integral over the time a rate was held. Calling the same methods with the same
arguments gives the same bits on every platform.

**Units.** ``now_us`` is microseconds since 1970, 0 to 2**62. A rate is cost units per second, an integer
from 0 to 2**40 for one attempt and to 2**62 for all that a share holds. Usage is cost units x seconds,
decayed.

**Errors.** ``ValueError`` for a value that may not be, ``KeyError`` for a share, shape or job that does not
exist, ``OverflowError`` for an integer that does not fit its C type, ``MemoryError``; the queue is then as
it was before.

**Growth.** *depth* is that of the tree, *fan-out* the children of one share. Where nothing is said, a
method is O(1). A waiting job takes 24 bytes, in pages of 256 consecutive numbers; a page goes when its last
job does. So the worst case, one job left in every page, is 6 KiB a job.
"""

from typing import final

from typing_extensions import Buffer

@final
class JobQueue:
    """The waiting jobs and the share tree. Not thread-safe beyond the interpreter's lock."""

    def __new__(cls, half_life_us: int, charge_ahead_us: int) -> JobQueue:
        """An empty queue with the root share, 0. Half-life 1 to 2**50, charge ahead 0 to 2**50 (35 years)."""

    # Jobs in and out.

    def enqueue(self, number: int, priority: int, share: int, shape: int) -> None:
        """Adds a waiting job: number 1 to 2**40 - 1, priority 0 (Low) to 3 (Urgent), at a leaf share.

        O(depth) at the end of its lane, the usual case; O(depth x log fan-out) more when it becomes its
        lane's oldest; expected O(log waiting) for a number inside the line (a treap: Seidel and Aragon,
        1996). ValueError when the number is waiting already or the share is not a leaf.
        """

    def enqueue_many(self, numbers: Buffer, priorities: Buffer, shares: Buffer, shapes: Buffer) -> None:
        """Adds jobs given as four columns, all of them or, on any refusal, none.

        The columns are contiguous buffers of equal length and of item types int64, int8, int32 and int32:
        ``array("q")``, ``array("b")``, ``array("i")``, ``array("i")``. Fastest in growing order of number.
        """

    def remove(self, number: int) -> bool:
        """Takes a job out; False when it is not waiting. O(depth); O(depth x log fan-out) for an oldest."""

    def set_priority(self, number: int, priority: int) -> None:
        """Moves a waiting job to the place its number gives it in another priority.

        Costs a ``remove`` and an ``enqueue``. KeyError when it is not waiting.
        """

    def peek(self) -> int:
        """The job ``dequeue`` would give, or 0. O(depth); O(log fan-out) more a share rescored since."""

    def dequeue(self) -> int:
        """Takes the next job, or gives 0; its owner is charged ahead at once. O(depth x log fan-out).

        The same as ``peek``, ``remove`` and ``hold`` of its shape's rate at ``instant_us``. ValueError when
        the owner would then hold more than 2**62. Scores are as of the last ``settle``: call that first.
        """

    def clear(self) -> None:
        """Removes every job and frees their memory; shares, shapes and usage stay. O(pages + shares)."""

    # Looking at the jobs.

    def __len__(self) -> int: ...
    def __contains__(self, number: int, /) -> bool: ...
    def get(self, number: int) -> tuple[int, int, int] | None:
        """(priority, share, shape) of a waiting job."""

    def counts(self) -> tuple[int, int, int, int]:
        """How many wait at each priority, Low first."""

    def waiting_in(self, share: int, priority: int = -1) -> int:
        """How many wait in this share and all below it, at one priority or, with -1, at all."""

    def shape_count(self, shape: int) -> int:
        """How many jobs of this shape wait."""

    def walk(self, now_us: int, fifo: bool = False, priority: int = 3) -> Walk:
        """A cursor over the waiting jobs in their order at ``now_us``, from a priority downwards; with
        ``fifo``, inside a priority by number alone, whoever they belong to. O(shares + shapes) bytes are
        zeroed; the active shares of a priority are copied when the walk reaches it."""

    def order(self, limit: int, now_us: int, fifo: bool = False) -> list[int]:
        """The first jobs of a walk that takes each: what ``dequeue`` gives after ``settle(now_us)``.

        O(active shares + limit x depth x log fan-out). ValueError for a negative limit.
        """

    def rank(self, number: int, now_us: int, limit: int = 10_000, fifo: bool = False) -> int:
        """The job's place in that order, from 1; 0 if it is not waiting or not among the first ``limit``.

        O(active shares + place x depth x log fan-out).
        """

    # Shares and shapes.

    def add_share(self, parent: int, weight: int = 1) -> int:
        """A new share below another: 1, 2, 3 ... Weight 1 to 1,000,000.

        Amortized O(1), and about 570 bytes. ValueError when the parent itself has waiting jobs.
        """

    def set_weight(self, share: int, weight: int) -> None: ...
    def add_shape(self, rate: int) -> int:
        """A new class of jobs that may start, or may not, together, each costing ``rate``: 0, 1, 2 ..."""

    def set_shape_rate(self, shape: int, rate: int) -> None: ...
    def set_decay(self, half_life_us: int, charge_ahead_us: int, now_us: int) -> None:
        """From now on usage halves in this time, and this much is charged ahead. O(shares log fan-out).

        Usage as of now stays what it is, to a rounding; bounds as for a new queue.
        """

    # What shares hold and have used.

    def hold(self, share: int, rate: int, now_us: int) -> None:
        """An attempt begins to hold resources at this rate, for the share and all above it. O(depth).

        A time before the last one seen by a share counts as that one. Every 32 half-lives the stored usages
        are rescaled, which is O(shares).
        """

    def release(self, share: int, rate: int, now_us: int) -> None:
        """It ends. O(depth). ValueError when the share or one above it holds less than that."""

    def charge(self, share: int, amount: float, now_us: int) -> None:
        """Adds usage directly, 0 to 1e18, to the share and all above it. O(depth)."""

    def settle(self, now_us: int) -> None:
        """Makes ``peek`` and ``dequeue`` see the scores as of now. O(shares that hold something).

        Changes no usage: whether and when it is called never changes what anything else gives.
        """

    @property
    def instant_us(self) -> int:
        """The last settle; 0 before the first."""

    def rate(self, share: int) -> int:
        """Held now by the share and all below it."""

    def weight(self, share: int) -> int: ...
    def usage(self, share: int, now_us: int) -> float:
        """Decayed usage, with what is held charged up to now. Reads only."""

    def effective(self, share: int, now_us: int) -> float:
        """Decayed usage and the rate held x charge ahead."""

    def score(self, share: int, now_us: int) -> float:
        """``effective / weight``: the smaller, the sooner its turn."""

    # Snapshots.

    def dump(self) -> tuple[object, ...]:
        """All that anything here depends on, as integers and columns in the byte order of this machine. A
        queue made of it by ``load`` gives the same answers, bit for bit, whatever both are asked from then
        on. O(shares + shapes + waiting)."""

    @staticmethod
    def load(dump: tuple[object, ...]) -> JobQueue:
        """The queue that was dumped. ValueError, KeyError, TypeError or OverflowError for what no queue
        gives. O(shares + shapes + waiting x depth)."""

    def memory_bytes(self) -> int:
        """Allocated now, without this object itself. O(shares)."""

    def __sizeof__(self) -> int: ...

@final
class Walk:
    """A pass over the waiting jobs in order, which leaves the queue as it is. Made by ``JobQueue.walk``.

    RuntimeError from any method once the queue has changed since the walk began.
    """

    @property
    def examined(self) -> int:
        """Jobs that ``next`` has returned."""

    def next(self) -> int:
        """The next job in order, or 0 when every waiting job of a shape not blocked has been returned.

        O(depth x log fan-out), and a few nanoseconds for each blocked job passed on the way.
        """

    def take(self, rate: int = -1) -> None:
        """Places the job ``next`` returned last: within the walk its owner is charged ahead by this rate, or
        that of its shape, so the jobs of others come forward. Without it the job is only passed. ValueError
        when there is none to take.
        """

    def block(self, shape: int) -> None:
        """Returns no more jobs of this shape. O(1)."""

    def block_many(self, shapes: Buffer) -> None:
        """Returns no more jobs of these shapes, given as a buffer of int32: ``array("i")``. O(shapes)."""

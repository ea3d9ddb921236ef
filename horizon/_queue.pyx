"""The waiting jobs and the share tree: the bodies of what ``_queue.pxd`` lists.

Every choice between two shares is a comparison of two doubles and, where they are equal, of two job
numbers. The doubles come from additions, multiplications and divisions in the order written here, with no
call into libm, so the order of jobs is the same on every build and platform.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.string cimport memcpy, memset

cdef extern from "limits.h":
    const long long LLONG_MAX

cdef int64_t NOW_US_MAX = 1 << 62
cdef int64_t HALF_LIFE_US_MAX = 1 << 50     # 35 years; any share of it converts to a double exactly
cdef int64_t RATE_MAX = 1 << 40             # of one attempt
cdef int64_t RATE_SUM_MAX = 1 << 62         # of a share and all below it
cdef double AMOUNT_MAX = 1e18

# Usage below this is forgotten when the landmark moves. Being far above the smallest double, it keeps every
# scaling by a power of two exact, so the result does not depend on how many steps the landmark took.
cdef double USAGE_MIN = 3.872591914849318e-121     # 2 ** -400


# ------------------------------------------------------------------------------------------------ memory

cdef void *resized(void *block, int64_t count, int64_t size) except NULL:
    """The block grown to `count` items of `size` bytes; on MemoryError the old block is untouched."""
    if count > LLONG_MAX // size:
        raise MemoryError
    cdef void *grown = PyMem_Realloc(block, <size_t>(count * size))
    if grown == NULL:
        raise MemoryError
    return grown


cdef void *zeroed(int64_t count, int64_t size) except NULL:
    cdef void *block = PyMem_Calloc(<size_t>count, <size_t>size)
    if block == NULL:
        raise MemoryError
    return block


cdef bytes new_column(int64_t count, int64_t size):
    """Room for so many items, which the caller fills before anybody sees it."""
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(count * size))


cdef inline int64_t grown_room(int64_t room) noexcept nogil:
    return 2 * room if room > 4 else 8


# ------------------------------------------------------------------------------------------- decay by time

cdef union Bits:
    uint64_t bits
    double value


cdef inline double power_of_two(int64_t exponent) noexcept nogil:
    """2 ** exponent, exactly, for -1022 <= exponent <= 1023: only the exponent field is set (IEEE 754)."""
    cdef Bits made
    made.bits = <uint64_t>(exponent + 1023) << 52
    return made.value


cdef double exp2_part(double part) noexcept nogil:
    """2 ** part for -0.5 <= part < 0.5: the Taylor series of exp(part * ln 2), to about the last place.

    The first term left out is (ln 2 / 2) ** 14 / 14!, 4e-18. Written as Horner's rule, because the order of
    the operations is what makes the result the same everywhere.
    """
    cdef double x = part * 0.6931471805599453
    cdef double y = 1.6059043836821613e-10
    y = y * x + 2.08767569878681e-09
    y = y * x + 2.505210838544172e-08
    y = y * x + 2.755731922398589e-07
    y = y * x + 2.7557319223985893e-06
    y = y * x + 2.48015873015873e-05
    y = y * x + 0.0001984126984126984
    y = y * x + 0.001388888888888889
    y = y * x + 0.008333333333333333
    y = y * x + 0.041666666666666664
    y = y * x + 0.16666666666666666
    y = y * x + 0.5
    y = y * x + 1.0
    return y * x + 1.0


cdef double inflation(int64_t elapsed_us, int64_t half_life_us) noexcept nogil:
    """2 ** (elapsed / half-life); 0.0 below 2 ** -1000.

    Whole half-lives are split off in integers, so two elapsed times a whole number of half-lives apart give
    exactly the same digits: moving the landmark changes no order.
    """
    cdef int64_t whole
    # Floor division by hand: C truncates, and a checked build floors as Python does.
    if elapsed_us >= 0:
        whole = elapsed_us // half_life_us
    else:
        whole = -((half_life_us - 1 - elapsed_us) // half_life_us)
    cdef int64_t part_us = elapsed_us - whole * half_life_us
    if 2 * part_us >= half_life_us:
        whole += 1
        part_us -= half_life_us
    if whole < -1000:
        return 0.0
    return exp2_part(<double>part_us / <double>half_life_us) * power_of_two(whole)


cdef double shrunk(double usage, int64_t halvings) noexcept nogil:
    """usage / 2 ** halvings, exactly, or 0.0 below USAGE_MIN."""
    if halvings == 0:
        return usage
    if halvings >= 1022:
        return 0.0
    cdef double left = usage * power_of_two(-halvings)
    return left if left >= USAGE_MIN else 0.0


# -------------------------------------------------------------------------- heaps of a lane's active children

cdef inline bint before(const Entry *a, const Entry *b) noexcept nogil:
    return a.score < b.score or (a.score == b.score and a.oldest < b.oldest)


cdef inline void put(Tier *tier, Entry *heap, int32_t at, const Entry *entry, HeapKind kind) noexcept nogil:
    heap[at] = entry[0]
    tier.lanes[entry.share].slot[<int>kind] = at


cdef void rise(Tier *tier, Entry *heap, int32_t at, HeapKind kind) noexcept nogil:
    cdef Entry entry = heap[at]
    cdef int32_t above
    while at > 0:
        above = (at - 1) >> 1
        if not before(&entry, &heap[above]):
            break
        put(tier, heap, at, &heap[above], kind)
        at = above
    put(tier, heap, at, &entry, kind)


cdef void sink(Tier *tier, Entry *heap, int32_t active, int32_t at, HeapKind kind) noexcept nogil:
    cdef Entry entry = heap[at]
    cdef int32_t below = 2 * at + 1
    while below < active:
        if below + 1 < active and before(&heap[below + 1], &heap[below]):
            below += 1
        if not before(&heap[below], &entry):
            break
        put(tier, heap, at, &heap[below], kind)
        at = below
        below = 2 * at + 1
    put(tier, heap, at, &entry, kind)


cdef inline void move(Tier *tier, Entry *heap, int32_t active, int32_t at, HeapKind kind) noexcept nogil:
    """Puts the entry whose key has changed at its place. O(log active)."""
    if at > 0 and before(&heap[at], &heap[(at - 1) >> 1]):
        rise(tier, heap, at, kind)
    else:
        sink(tier, heap, active, at, kind)


cdef void make_heap(Tier *tier, Entry *heap, int32_t active) noexcept nogil:
    """Orders a RANKED heap of which every key may have changed. O(active)."""
    cdef int32_t at = active >> 1
    while at > 0:
        at -= 1
        sink(tier, heap, active, at, RANKED)


cdef inline int kinds_kept(int32_t parent) noexcept nogil:
    """How many heaps a share keeps. Nobody asks the root for its oldest job, so it keeps no AGED one."""
    return 1 if parent == ROOT else 2


cdef void join(Tier *tier, int32_t parent, int32_t share) noexcept nogil:
    """The share's lane has its first job: it enters its parent's heaps."""
    cdef Lane *above = &tier.lanes[parent]
    cdef int kind
    cdef int32_t at = above.active
    above.active += 1
    for kind in range(kinds_kept(parent)):
        above.heap[kind][at].score = tier.scores[share] if kind == RANKED else 0.0
        above.heap[kind][at].oldest = tier.lanes[share].oldest
        above.heap[kind][at].share = share
        rise(tier, above.heap[kind], at, <HeapKind>kind)


cdef void leave(Tier *tier, int32_t parent, int32_t share) noexcept nogil:
    """The share's lane is empty: it leaves its parent's heaps, and the last entry fills the hole."""
    cdef Lane *above = &tier.lanes[parent]
    cdef int kind
    cdef int32_t at
    above.active -= 1
    for kind in range(kinds_kept(parent)):
        at = tier.lanes[share].slot[kind]
        tier.lanes[share].slot[kind] = NOWHERE
        if at != above.active:
            put(tier, above.heap[kind], at, &above.heap[kind][above.active], <HeapKind>kind)
            move(tier, above.heap[kind], above.active, at, <HeapKind>kind)


cdef void age(Tier *tier, int32_t parent, int32_t share) noexcept nogil:
    """The oldest job of a share that stays active is another one."""
    cdef Lane *above = &tier.lanes[parent]
    cdef int kind
    cdef int32_t at
    for kind in range(kinds_kept(parent)):
        at = tier.lanes[share].slot[kind]
        above.heap[kind][at].oldest = tier.lanes[share].oldest
        move(tier, above.heap[kind], above.active, at, <HeapKind>kind)


cdef void climb(Tier *tier, int32_t share) noexcept nogil:
    """Carries a change of ``lanes[share].oldest`` up the tree. O(depth x log fan-out).

    It stops at the first share whose own oldest job stays the same.
    """
    cdef int32_t parent
    cdef Lane *above
    cdef int64_t oldest
    while share != ROOT:
        parent = tier.shares[share].parent
        above = &tier.lanes[parent]
        if tier.lanes[share].oldest == 0:
            leave(tier, parent, share)
        elif tier.lanes[share].slot[<int>RANKED] == NOWHERE:
            join(tier, parent, share)
        else:
            age(tier, parent, share)
        if parent == ROOT:
            return
        oldest = above.heap[<int>AGED][0].oldest if above.active else 0
        if oldest == above.oldest:
            return
        above.oldest = oldest
        share = parent


cdef inline void move_score(Tier *tier, int32_t share) noexcept nogil:
    """Takes ``scores[share]`` over into the parent's heap, if the share is in it."""
    cdef int32_t at = tier.lanes[share].slot[<int>RANKED]
    if at == NOWHERE:
        return
    cdef Lane *above = &tier.lanes[tier.shares[share].parent]
    above.heap[<int>RANKED][at].score = tier.scores[share]
    move(tier, above.heap[<int>RANKED], above.active, at, RANKED)


cdef inline void count(Tier *tier, int32_t share, int change) noexcept nogil:
    while True:
        tier.lanes[share].waiting += change
        if share == ROOT:
            return
        share = tier.shares[share].parent


cdef inline int32_t best_leaf(const Tier *tier) noexcept nogil:
    """The leaf whose turn it is in a tier that has jobs. O(depth)."""
    cdef int32_t share = ROOT
    while tier.shares[share].children:
        share = tier.lanes[share].heap[<int>RANKED][0].share
    return share


# ------------------------------------------------------------------ the jobs of one leaf's lane, by number

cdef inline int64_t page_in_directory(int64_t number) noexcept nogil:
    return (number >> PAGE_BITS) & (DIRECTORY_PAGES - 1)


cdef inline Job *job_at(Directory **top, int64_t number) noexcept nogil:
    """The place of a number whose page exists: that of any waiting job."""
    cdef Page *page = top[number >> (PAGE_BITS + DIRECTORY_BITS)].pages[page_in_directory(number)]
    return &page.jobs[number & (PAGE_JOBS - 1)]


cdef inline int32_t shape_of(const Job *job) noexcept nogil:
    return job.shape & ~MIDDLE


@cython.overflowcheck(False)    # wraps around on purpose
cdef inline uint64_t depth_weight(int64_t number) noexcept nogil:
    """A number's place in the treap's heap order, evenly spread (the mixing function of SplitMix64)."""
    cdef uint64_t mixed = <uint64_t>number * <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    return mixed ^ (mixed >> 31)


cdef void treap_add(Directory **top, int64_t *link, int64_t number) noexcept nogil:
    """Adds a number to the treap (Seidel and Aragon, 1996) whose root is at `link`. O(log n) expected.

    The node goes where the path meets the first lighter one; what hangs there is split to its two sides.
    """
    cdef Job *job = job_at(top, number)
    cdef Job *other
    cdef uint64_t weight = depth_weight(number)
    while link[0] and depth_weight(link[0]) >= weight:
        other = job_at(top, link[0])
        link = &other.prev if number < link[0] else &other.next
    cdef int64_t rest = link[0]
    cdef int64_t *smaller = &job.prev
    cdef int64_t *larger = &job.next
    link[0] = number
    while rest:
        other = job_at(top, rest)
        if rest < number:
            smaller[0] = rest
            smaller = &other.next
            rest = other.next
        else:
            larger[0] = rest
            larger = &other.prev
            rest = other.prev
    smaller[0] = 0
    larger[0] = 0


cdef void treap_remove(Directory **top, int64_t *link, int64_t number) noexcept nogil:
    """Takes out a number that is in the treap: its two sides are merged in its place. O(log n) expected."""
    cdef Job *job
    while link[0] != number:
        job = job_at(top, link[0])
        link = &job.prev if number < link[0] else &job.next
    job = job_at(top, number)
    cdef int64_t smaller = job.prev
    cdef int64_t larger = job.next
    while smaller and larger:
        if depth_weight(smaller) >= depth_weight(larger):
            link[0] = smaller
            link = &job_at(top, smaller).next
            smaller = link[0]
        else:
            link[0] = larger
            link = &job_at(top, larger).prev
            larger = link[0]
    link[0] = smaller if smaller else larger


cdef int64_t treap_after(Directory **top, int64_t root, int64_t number) noexcept nogil:
    """The smallest number in the treap above `number`; 0 for none. O(log n) expected."""
    cdef int64_t found = 0
    while root:
        if root > number:
            found = root
            root = job_at(top, root).prev
        else:
            root = job_at(top, root).next
    return found


cdef inline int64_t older(int64_t a, int64_t b) noexcept nogil:
    """The smaller of two numbers, of which 0 is none."""
    if a == 0 or (b != 0 and b < a):
        return b
    return a


cdef inline void stand_in_line(Directory **top, Lane *lane, int64_t number, Job *job) noexcept nogil:
    """Puts a job at its place in a leaf's lane: O(1) at either end of the line, O(log n) inside.

    Numbers grow, so a new job goes to the end; a requeued one is mostly older than all who wait.
    """
    if number > lane.last:
        job.prev = lane.last
        job.next = 0
        if lane.last:
            job_at(top, lane.last).next = number
        else:
            lane.first = number
        lane.last = number
    elif number < lane.first:
        job.prev = 0
        job.next = lane.first
        job_at(top, lane.first).prev = number
        lane.first = number
    else:
        job.shape |= MIDDLE
        treap_add(top, &lane.middle, number)


cdef inline void step_out(Directory **top, Lane *lane, int64_t number, Job *job) noexcept nogil:
    if job.shape & MIDDLE:
        treap_remove(top, &lane.middle, number)
        job.shape &= ~MIDDLE
        return
    if job.prev:
        job_at(top, job.prev).next = job.next
    else:
        lane.first = job.next
    if job.next:
        job_at(top, job.next).prev = job.prev
    else:
        lane.last = job.prev


# ------------------------------------------------------------------------------------------------ the queue

@cython.final
cdef class JobQueue:

    def __cinit__(self, int64_t half_life_us, int64_t charge_ahead_us):
        check_decay(half_life_us, charge_ahead_us)
        self.decay_by(half_life_us, charge_ahead_us)
        self.instant.inflation = 1.0
        self.reserve_share()
        self.append_share(NOWHERE, 1)

    def __dealloc__(self):
        cdef int32_t share
        cdef int priority
        self.free_jobs()
        for priority in range(PRIORITIES):
            for share in range(self.share_total):
                PyMem_Free(self.tiers[priority].lanes[share].heap[<int>RANKED])
                PyMem_Free(self.tiers[priority].lanes[share].heap[<int>AGED])
            PyMem_Free(self.tiers[priority].lanes)
            PyMem_Free(self.tiers[priority].stale)
        PyMem_Free(self.shares)
        PyMem_Free(self.scores)
        PyMem_Free(self.holders)
        PyMem_Free(self.shapes)

    # ------------------------------------------------------------------------------------ jobs in and out

    def enqueue(self, int64_t number, int priority, int share, int shape):
        """Adds a waiting job. O(depth), and O(depth x log fan-out) more if it is its lane's oldest."""
        cdef Job *job
        if not self.fits(number, priority, share, shape):
            self.refuse(number, priority, share, shape)
        job = self.claim(number)
        job.lane = 1 + share * PRIORITIES + priority
        job.shape = shape
        self.attach(number, job)
        self.version += 1

    def enqueue_many(
        self,
        const int64_t[::1] numbers,
        const int8_t[::1] priorities,
        const int32_t[::1] shares,
        const int32_t[::1] shapes,
    ):
        """Adds all these jobs or, when one is refused, none."""
        cdef Py_ssize_t i
        if not numbers.shape[0] == priorities.shape[0] == shares.shape[0] == shapes.shape[0]:
            raise ValueError(
                f"columns differ in length: {numbers.shape[0]} numbers, {priorities.shape[0]} priorities, "
                f"{shares.shape[0]} shares, {shapes.shape[0]} shapes"
            )
        self.claim_many(numbers, priorities, shares, shapes)
        # From here on nothing can fail: every job has its page and every heap has room for all children.
        for i in range(numbers.shape[0]):
            self.attach(numbers[i], job_at(self.top, numbers[i]))
        self.version += 1

    cdef int claim_many(self, const int64_t[::1] numbers, const int8_t[::1] priorities,
                        const int32_t[::1] shares, const int32_t[::1] shapes) except -1:
        """Checks each job and takes its place, which also finds a number given twice; undone on refusal."""
        cdef Py_ssize_t i = 0
        cdef Job *job
        try:
            while i < numbers.shape[0]:
                if not self.fits(numbers[i], priorities[i], shares[i], shapes[i]):
                    self.refuse(numbers[i], priorities[i], shares[i], shapes[i])
                job = self.claim(numbers[i])
                job.lane = 1 + shares[i] * PRIORITIES + priorities[i]
                job.shape = shapes[i]
                i += 1
        except BaseException:
            while i > 0:
                i -= 1
                self.vacate(numbers[i], job_at(self.top, numbers[i]))
            raise
        return 0

    def peek(self):
        cdef Tier *tier = self.front_tier()
        return tier.lanes[best_leaf(tier)].oldest if tier != NULL else 0

    def dequeue(self):
        return self.take_front()

    cdef Tier *front_tier(self) noexcept:
        """The highest priority that has jobs, its heaps in order; NULL if none has."""
        cdef int priority = PRIORITIES
        while priority > 0:
            priority -= 1
            if self.tiers[priority].lanes[ROOT].waiting:
                self.refresh(priority)
                return &self.tiers[priority]
        return NULL

    cdef int64_t take_front(self) except -1:
        """Takes the next job and charges its owner ahead. O(depth x log fan-out)."""
        cdef Tier *tier = self.front_tier()
        if tier == NULL:
            return 0
        cdef int32_t share = best_leaf(tier)
        cdef int64_t number = tier.lanes[share].oldest
        cdef Job *job = job_at(self.top, number)
        cdef int64_t rate = self.shapes[shape_of(job)].rate
        self.check_rate(share, rate)
        self.detach(number, job)
        self.vacate(number, job)
        self.change_rate(share, rate, &self.instant)
        self.version += 1
        return number

    def remove(self, int64_t number):
        cdef Job *job = self.find(number)
        if job == NULL:
            return False
        self.detach(number, job)
        self.vacate(number, job)
        self.version += 1
        return True

    def set_priority(self, int64_t number, int priority):
        cdef Job *job = self.find(number)
        if job == NULL:
            raise KeyError(f"job {number} is not waiting")
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority must be 0 (Low) to 3 (Urgent), not {priority}")
        if (job.lane - 1) % PRIORITIES == priority:
            return
        self.detach(number, job)
        job.lane += priority - (job.lane - 1) % PRIORITIES
        self.attach(number, job)
        self.version += 1

    def clear(self):
        cdef int priority
        cdef int32_t share
        cdef Lane *lane
        self.free_jobs()
        for share in range(self.shape_total):
            self.shapes[share].waiting = 0
        for priority in range(PRIORITIES):
            for share in range(self.share_total):
                lane = &self.tiers[priority].lanes[share]
                lane.oldest = lane.waiting = lane.first = lane.last = lane.middle = 0
                lane.active = 0
                lane.slot[<int>RANKED] = lane.slot[<int>AGED] = NOWHERE
        self.version += 1

    # --------------------------------------------------------------------------------- looking at the jobs

    def __len__(self):
        return (
            self.tiers[0].lanes[ROOT].waiting
            + self.tiers[1].lanes[ROOT].waiting
            + self.tiers[2].lanes[ROOT].waiting
            + self.tiers[3].lanes[ROOT].waiting
        )

    def __contains__(self, int64_t number):
        return self.find(number) != NULL

    def get(self, int64_t number):
        cdef Job *job = self.find(number)
        if job == NULL:
            return None
        return (job.lane - 1) % PRIORITIES, (job.lane - 1) // PRIORITIES, shape_of(job)

    def counts(self):
        return (
            self.tiers[0].lanes[ROOT].waiting,
            self.tiers[1].lanes[ROOT].waiting,
            self.tiers[2].lanes[ROOT].waiting,
            self.tiers[3].lanes[ROOT].waiting,
        )

    def waiting_in(self, int share, int priority=-1):
        cdef int64_t waiting = 0
        self.check_share(share)
        if not -1 <= priority < PRIORITIES:
            raise ValueError(f"priority must be 0 (Low) to 3 (Urgent), or -1 for all, not {priority}")
        if priority >= 0:
            return self.tiers[priority].lanes[share].waiting
        for priority in range(PRIORITIES):
            waiting += self.tiers[priority].lanes[share].waiting
        return waiting

    def shape_count(self, int shape):
        self.check_shape(shape)
        return self.shapes[shape].waiting

    def walk(self, int64_t now_us, bint fifo=False, int priority=PRIORITIES - 1):
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority must be 0 (Low) to 3 (Urgent), not {priority}")
        cdef Walk walk = self.new_walk(now_us, fifo)
        walk.priority = priority + 1
        return walk

    cdef Walk new_walk(self, int64_t now_us, bint fifo):
        check_now(now_us)
        cdef Walk walk = Walk.__new__(Walk)
        walk.fifo = fifo
        walk.open(self, now_us)
        return walk

    def order(self, int64_t limit, int64_t now_us, bint fifo=False):
        cdef Walk walk = self.new_walk(now_us, fifo)
        cdef list numbers = []
        cdef int64_t number
        if limit < 0:
            raise ValueError(f"limit must not be negative, not {limit}")
        while limit > 0:
            number = walk.step()
            if number == 0:
                break
            numbers.append(number)
            walk.charge_last(self.shapes[walk.last_shape].rate)
            limit -= 1
        return numbers

    def rank(self, int64_t number, int64_t now_us, int64_t limit=10_000, bint fifo=False):
        cdef Walk walk = self.new_walk(now_us, fifo)
        cdef int64_t place = 0
        cdef int64_t found
        if limit < 0:
            raise ValueError(f"limit must not be negative, not {limit}")
        if self.find(number) == NULL:
            return 0
        while place < limit:
            place += 1
            found = walk.step()
            if found == number:
                return place
            if found == 0:
                break
            walk.charge_last(self.shapes[walk.last_shape].rate)
        return 0

    # ----------------------------------------------------------------------------------- the tree and shapes

    def add_share(self, int parent, int weight=1):
        cdef int priority
        self.check_share(parent)
        check_weight(weight)
        for priority in range(PRIORITIES):
            if self.tiers[priority].lanes[parent].waiting and not self.shares[parent].children:
                raise ValueError(f"share {parent} has waiting jobs, so it cannot have shares below it")
        if self.share_total == SHARES_MAX:
            raise ValueError(f"there can be no more than {SHARES_MAX} shares")
        self.reserve_share()
        self.reserve_heaps(parent)
        self.shares[parent].children += 1
        self.append_share(parent, weight)
        self.version += 1
        return self.share_total - 1

    def set_weight(self, int share, int weight):
        self.check_share(share)
        check_weight(weight)
        self.shares[share].weight = weight
        self.rescore(share)
        self.version += 1

    def add_shape(self, int64_t rate):
        check_rate_of_one(rate)
        cdef int64_t room = self.shape_room
        if self.shape_total == SHAPES_MAX:
            raise ValueError(f"there can be no more than {SHAPES_MAX} shapes")
        if self.shape_total == room:
            room = grown_room(room)
            self.shapes = <Shape *>resized(self.shapes, room, sizeof(Shape))
            self.shape_room = <int32_t>room
        self.shapes[self.shape_total].rate = rate
        self.shapes[self.shape_total].waiting = 0
        self.shape_total += 1
        self.version += 1
        return self.shape_total - 1

    def set_shape_rate(self, int shape, int64_t rate):
        self.check_shape(shape)
        check_rate_of_one(rate)
        self.shapes[shape].rate = rate
        self.version += 1

    def set_decay(self, int64_t half_life_us, int64_t charge_ahead_us, int64_t now_us):
        cdef Moment old
        cdef int32_t share
        check_decay(half_life_us, charge_ahead_us)
        check_now(now_us)
        self.rebase(now_us)
        old = self.moment(now_us)
        for share in range(self.share_total):
            self.shares[share].usage = self.settled(share, &old) / old.inflation
            if now_us > self.shares[share].since_us:
                self.shares[share].since_us = now_us
        self.decay_by(half_life_us, charge_ahead_us)
        # The landmark is where a queue that never knew another half-life would have it.
        self.instant.us = max(now_us, self.instant.us)
        self.instant.landmark_us = self.instant.us - self.instant.us % self.frame_us
        self.instant.inflation = inflation(self.instant.us - self.instant.landmark_us, half_life_us)
        for share in range(self.share_total):
            self.shares[share].usage *= inflation(now_us - self.instant.landmark_us, half_life_us)
        self.rescore_all()
        self.version += 1

    cdef void decay_by(self, int64_t half_life_us, int64_t charge_ahead_us) noexcept:
        self.half_life_us = half_life_us
        self.charge_ahead_us = charge_ahead_us
        self.frame_us = FRAME_HALF_LIVES * half_life_us
        self.tau_s = <double>half_life_us / 1000000.0 / 0.6931471805599453
        self.ahead_s = <double>charge_ahead_us / 1000000.0

    def hold(self, int share, int64_t rate, int64_t now_us):
        self.check_share(share)
        check_rate_of_one(rate)
        check_now(now_us)
        self.check_rate(share, rate)
        self.rebase(now_us)
        cdef Moment at = self.moment(now_us)
        self.change_rate(share, rate, &at)
        self.version += 1

    def release(self, int share, int64_t rate, int64_t now_us):
        self.check_share(share)
        check_rate_of_one(rate)
        check_now(now_us)
        self.check_rate(share, -rate)
        self.rebase(now_us)
        cdef Moment at = self.moment(now_us)
        self.change_rate(share, -rate, &at)
        self.version += 1

    def charge(self, int share, double amount, int64_t now_us):
        self.check_share(share)
        check_now(now_us)
        if not 0.0 <= amount <= AMOUNT_MAX:     # refuses a NaN too
            raise ValueError(f"amount must be between 0 and {AMOUNT_MAX:g}, not {amount}")
        self.rebase(now_us)
        cdef double inflated = amount * self.moment(now_us).inflation
        while True:
            self.shares[share].usage += inflated
            self.rescore(share)
            if share == ROOT:
                break
            share = self.shares[share].parent
        self.version += 1

    def settle(self, int64_t now_us):
        cdef int32_t i
        check_now(now_us)
        if now_us == self.instant.us:
            return
        self.rebase(now_us)
        self.instant = self.moment(now_us)
        for i in range(self.holder_total):
            self.rescore(self.holders[i])
        self.version += 1

    @property
    def instant_us(self):
        return self.instant.us

    def rate(self, int share):
        self.check_share(share)
        return self.shares[share].rate

    def weight(self, int share):
        self.check_share(share)
        return self.shares[share].weight

    def usage(self, int share, int64_t now_us):
        self.check_share(share)
        check_now(now_us)
        cdef Moment at = self.moment(now_us)
        return self.settled(share, &at) / at.inflation

    def effective(self, int share, int64_t now_us):
        return <double>self.usage(share, now_us) + <double>self.shares[share].rate * self.ahead_s

    def score(self, int share, int64_t now_us):
        return <double>self.effective(share, now_us) / <double>self.shares[share].weight

    def memory_bytes(self):
        cdef int64_t held = self.top_room * <int64_t>sizeof(Directory *)
        cdef int32_t share
        held += self.pages * <int64_t>sizeof(Page) + self.directories * <int64_t>sizeof(Directory)
        held += self.share_room * <int64_t>(
            sizeof(Share) + sizeof(double) + sizeof(int32_t) + PRIORITIES * (sizeof(Lane) + sizeof(int32_t))
        )
        held += self.shape_room * <int64_t>sizeof(Shape)
        for share in range(self.share_total):
            held += self.shares[share].room * <int64_t>sizeof(Entry) * PRIORITIES * kinds_kept(share)
        return held

    def __sizeof__(self):
        return object.__sizeof__(self) + self.memory_bytes()

    # --------------------------------------------------------------------------------------------- snapshots

    def dump(self):
        return (
            self.half_life_us,
            self.charge_ahead_us,
            self.instant.us,
            self.instant.landmark_us,
            self.dump_shares(),
            self.dump_shapes(),
            self.dump_jobs(),
        )

    cdef tuple dump_shares(self):
        cdef int64_t total = self.share_total
        cdef int32_t share
        cdef Share *node
        parents, weights = new_column(total, 4), new_column(total, 4)
        rates, usages, since = new_column(total, 8), new_column(total, 8), new_column(total, 8)
        for share in range(self.share_total):
            node = &self.shares[share]
            (<int32_t *>PyBytes_AS_STRING(parents))[share] = node.parent
            (<int32_t *>PyBytes_AS_STRING(weights))[share] = node.weight
            (<int64_t *>PyBytes_AS_STRING(rates))[share] = node.rate
            (<double *>PyBytes_AS_STRING(usages))[share] = node.usage
            (<int64_t *>PyBytes_AS_STRING(since))[share] = node.since_us
        return parents, weights, rates, usages, since

    cdef bytes dump_shapes(self):
        cdef int32_t shape
        rates = new_column(self.shape_total, 8)
        for shape in range(self.shape_total):
            (<int64_t *>PyBytes_AS_STRING(rates))[shape] = self.shapes[shape].rate
        return rates

    cdef tuple dump_jobs(self):
        """In growing order of number, so that they go back in at the end of their lines."""
        cdef int64_t total = len(self)
        cdef int64_t at = 0
        cdef int64_t index, page, place
        cdef Directory *directory
        cdef Job *job
        numbers, priorities = new_column(total, 8), new_column(total, 1)
        shares, shapes = new_column(total, 4), new_column(total, 4)
        for index in range(self.top_room):
            directory = self.top[index]
            for page in range(DIRECTORY_PAGES if directory != NULL else 0):
                for place in range(PAGE_JOBS if directory.pages[page] != NULL else 0):
                    job = &directory.pages[page].jobs[place]
                    if job.lane == 0:
                        continue
                    (<int64_t *>PyBytes_AS_STRING(numbers))[at] = (
                        ((index << DIRECTORY_BITS) + page) << PAGE_BITS
                    ) + place
                    (<int8_t *>PyBytes_AS_STRING(priorities))[at] = <int8_t>((job.lane - 1) % PRIORITIES)
                    (<int32_t *>PyBytes_AS_STRING(shares))[at] = (job.lane - 1) // PRIORITIES
                    (<int32_t *>PyBytes_AS_STRING(shapes))[at] = shape_of(job)
                    at += 1
        return numbers, priorities, shares, shapes

    @staticmethod
    def load(dump):
        half_life_us, charge_ahead_us, instant_us, landmark_us, shares, shape_rates, jobs = dump
        cdef JobQueue queue = JobQueue(half_life_us, charge_ahead_us)
        cdef Py_ssize_t shape
        cdef const int64_t[::1] rates = memoryview(shape_rates).cast("q")
        check_now(instant_us)
        check_now(landmark_us)
        queue.instant.us, queue.instant.landmark_us = instant_us, landmark_us
        queue.instant.inflation = inflation(queue.instant.us - queue.instant.landmark_us, queue.half_life_us)
        parents, weights, held, usages, since = [
            memoryview(one).cast(kind) for one, kind in zip(shares, "iiqdq", strict=True)
        ]
        queue.load_shares(parents, weights, held, usages, since)
        for shape in range(rates.shape[0]):
            queue.add_shape(rates[shape])
        queue.enqueue_many(*[memoryview(one).cast(kind) for one, kind in zip(jobs, "qbii", strict=True)])
        return queue

    cdef int load_shares(self, const int32_t[::1] parents, const int32_t[::1] weights, const int64_t[::1] rates,
                         const double[::1] usages, const int64_t[::1] since) except -1:
        """Their scores are what they were: they depend on nothing else, nor on what happened when."""
        cdef Py_ssize_t share
        if not 0 < parents.shape[0] == weights.shape[0] == rates.shape[0] == usages.shape[0] == since.shape[0]:
            raise ValueError("the columns of the shares differ in length")
        self.set_weight(ROOT, weights[ROOT])
        for share in range(parents.shape[0]):
            if share != ROOT:
                self.add_share(parents[share], weights[share])
            if not 0 <= rates[share] <= RATE_SUM_MAX or not usages[share] >= 0.0:   # refuses a NaN too
                raise ValueError(f"share {share} cannot have held or used that much")
            check_now(since[share])
            self.shares[share].rate = rates[share]
            self.shares[share].usage = usages[share]
            self.shares[share].since_us = since[share]
            self.note_holder(<int32_t>share)
        self.rescore_all()
        return 0

    # ----------------------------------------------------------------------------------------- pages of jobs

    cdef Job *find(self, int64_t number) noexcept:
        """The waiting job of that number, or NULL. O(1): three loads."""
        if number < 1 or number >> NUMBER_BITS:
            return NULL
        cdef int64_t index = number >> (PAGE_BITS + DIRECTORY_BITS)
        if index >= self.top_room or self.top[index] == NULL:
            return NULL
        cdef Page *page = self.top[index].pages[page_in_directory(number)]
        if page == NULL or page.jobs[number & (PAGE_JOBS - 1)].lane == 0:
            return NULL
        return &page.jobs[number & (PAGE_JOBS - 1)]

    cdef Job *claim(self, int64_t number) except NULL:
        """The free place of a number in range, counted as used; the caller gives it a lane."""
        cdef int64_t at = page_in_directory(number)
        cdef Directory *directory = self.page_for(number)
        cdef Job *job = &directory.pages[at].jobs[number & (PAGE_JOBS - 1)]
        if job.lane:
            raise ValueError(f"job {number} is already waiting")
        directory.jobs_in[at] += 1
        return job

    cdef Directory *page_for(self, int64_t number) except NULL:
        """The directory that has a page for the number, allocated now if it had none."""
        cdef int64_t index = number >> (PAGE_BITS + DIRECTORY_BITS)
        cdef int64_t at = page_in_directory(number)
        if index < self.top_room and self.top[index] != NULL and self.top[index].pages[at] != NULL:
            return self.top[index]
        # The spare is filled first and moved only when nothing can fail any more.
        if self.spare_page == NULL:
            self.spare_page = <Page *>zeroed(1, sizeof(Page))
            self.pages += 1
        cdef Directory *directory = self.directory_for(index)
        directory.pages[at] = self.spare_page
        directory.used += 1
        self.spare_page = NULL
        return directory

    cdef Directory *directory_for(self, int64_t index) except NULL:
        if index >= self.top_room:
            self.grow_top(index)
        if self.top[index] == NULL:
            if self.spare_directory == NULL:
                self.spare_directory = <Directory *>zeroed(1, sizeof(Directory))
                self.directories += 1
            self.top[index] = self.spare_directory
            self.spare_directory = NULL
        return self.top[index]

    cdef int grow_top(self, int64_t index) except -1:
        """Doubles the directories until they reach `index`: 8 bytes a million numbers, 8 MiB in all."""
        cdef int64_t room = grown_room(self.top_room)
        while room <= index:
            room *= 2
        self.top = <Directory **>resized(self.top, room, sizeof(Directory *))
        memset(self.top + self.top_room, 0, <size_t>(room - self.top_room) * sizeof(Directory *))
        self.top_room = room
        return 0

    cdef void vacate(self, int64_t number, Job *job) noexcept:
        cdef Directory *directory = self.top[number >> (PAGE_BITS + DIRECTORY_BITS)]
        cdef int64_t at = page_in_directory(number)
        job.lane = 0
        directory.jobs_in[at] -= 1
        if directory.jobs_in[at] == 0:
            self.drop_page(number)

    cdef void drop_page(self, int64_t number) noexcept:
        """Gives an empty page back, and its directory with the last of them. Empty means all zero lanes,
        so the spare is fit for use as it is."""
        cdef int64_t index = number >> (PAGE_BITS + DIRECTORY_BITS)
        cdef int64_t at = page_in_directory(number)
        cdef Directory *directory = self.top[index]
        if self.spare_page == NULL:
            self.spare_page = directory.pages[at]
        else:
            PyMem_Free(directory.pages[at])
            self.pages -= 1
        directory.pages[at] = NULL
        directory.used -= 1
        if directory.used:
            return
        self.top[index] = NULL
        if self.spare_directory == NULL:
            self.spare_directory = directory
        else:
            PyMem_Free(directory)
            self.directories -= 1

    cdef void free_jobs(self) noexcept:
        cdef int64_t index, at
        for index in range(self.top_room):
            if self.top[index] != NULL:
                for at in range(DIRECTORY_PAGES):
                    PyMem_Free(self.top[index].pages[at])
                PyMem_Free(self.top[index])
        PyMem_Free(self.top)
        PyMem_Free(self.spare_page)
        PyMem_Free(self.spare_directory)
        self.top = NULL
        self.spare_page = NULL
        self.spare_directory = NULL
        self.top_room = self.pages = self.directories = 0

    # ---------------------------------------------------------------------------------------- jobs in lanes

    cdef bint fits(self, int64_t number, int priority, int share, int shape) noexcept:
        return (
            0 < number < (<int64_t>1 << NUMBER_BITS)
            and 0 <= priority < PRIORITIES
            and 0 <= share < self.share_total
            and 0 <= shape < self.shape_total
            and self.shares[share].children == 0
        )

    cdef int refuse(self, int64_t number, int priority, int share, int shape) except -1:
        """Says what does not fit."""
        if not 0 < number < (<int64_t>1 << NUMBER_BITS):
            raise ValueError(f"job number must be between 1 and 2**40 - 1, not {number}")
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority must be 0 (Low) to 3 (Urgent), not {priority}")
        self.check_share(share)
        self.check_shape(shape)
        raise ValueError(f"share {share} has shares below it, so no job can wait in it")

    cdef void attach(self, int64_t number, Job *job) noexcept:
        """Links a claimed job into its lane. Touches a heap only if it is the lane's oldest."""
        cdef int32_t share = (job.lane - 1) // PRIORITIES
        cdef Tier *tier = &self.tiers[(job.lane - 1) % PRIORITIES]
        cdef Lane *lane = &tier.lanes[share]
        self.shapes[job.shape].waiting += 1
        stand_in_line(self.top, lane, number, job)
        count(tier, share, 1)
        if lane.oldest == 0 or number < lane.oldest:
            lane.oldest = number
            climb(tier, share)

    cdef void detach(self, int64_t number, Job *job) noexcept:
        cdef int32_t share = (job.lane - 1) // PRIORITIES
        cdef Tier *tier = &self.tiers[(job.lane - 1) % PRIORITIES]
        cdef Lane *lane = &tier.lanes[share]
        step_out(self.top, lane, number, job)
        self.shapes[job.shape].waiting -= 1
        count(tier, share, -1)
        if number == lane.oldest:
            lane.oldest = older(lane.first, treap_after(self.top, lane.middle, 0))
            climb(tier, share)

    # ------------------------------------------------------------------------------- shares: room and checks

    cdef int check_share(self, int share) except -1:
        if not 0 <= share < self.share_total:
            raise KeyError(f"there is no share {share}")
        return 0

    cdef int check_shape(self, int shape) except -1:
        if not 0 <= shape < self.shape_total:
            raise KeyError(f"there is no shape {shape}")
        return 0

    cdef int check_rate(self, int share, int64_t change) except -1:
        """Refuses a change that some share up to the root cannot bear, before any of them is touched."""
        cdef int64_t rate
        while share != NOWHERE:
            rate = self.shares[share].rate
            if rate + change < 0:
                raise ValueError(f"share {share} holds a rate of {rate}, so {-change} cannot be released")
            if rate + change > RATE_SUM_MAX:
                raise ValueError(f"share {share} would hold a rate above 2**62")
            share = self.shares[share].parent
        return 0

    cdef int reserve_share(self) except -1:
        """Room for one more share. A failure half-way leaves some blocks larger than needed, no more."""
        cdef int64_t room = self.share_room
        cdef int priority
        if self.share_total < room:
            return 0
        room = grown_room(room)
        self.shares = <Share *>resized(self.shares, room, sizeof(Share))
        for priority in range(PRIORITIES):
            self.tiers[priority].shares = self.shares
        self.scores = <double *>resized(self.scores, room, sizeof(double))
        for priority in range(PRIORITIES):
            self.tiers[priority].scores = self.scores
        self.holders = <int32_t *>resized(self.holders, room, sizeof(int32_t))
        for priority in range(PRIORITIES):
            self.tiers[priority].lanes = <Lane *>resized(self.tiers[priority].lanes, room, sizeof(Lane))
            self.tiers[priority].stale = <int32_t *>resized(self.tiers[priority].stale, room, sizeof(int32_t))
        self.share_room = <int32_t>room
        return 0

    cdef int reserve_heaps(self, int32_t parent) except -1:
        """Room for one more child in the parent's heaps, so that no later operation on jobs can lack it."""
        cdef int64_t room = self.shares[parent].room
        cdef int priority, kind
        cdef Lane *lane
        if self.shares[parent].children < room:
            return 0
        room = grown_room(room)
        for priority in range(PRIORITIES):
            lane = &self.tiers[priority].lanes[parent]
            for kind in range(kinds_kept(parent)):
                lane.heap[kind] = <Entry *>resized(lane.heap[kind], room, sizeof(Entry))
        self.shares[parent].room = <int32_t>room
        return 0

    cdef void append_share(self, int32_t parent, int32_t weight) noexcept:
        cdef int32_t share = self.share_total
        cdef int priority
        cdef Lane *lane
        memset(&self.shares[share], 0, sizeof(Share))
        self.shares[share].parent = parent
        self.shares[share].weight = weight
        self.shares[share].held_at = NOWHERE
        self.scores[share] = 0.0
        for priority in range(PRIORITIES):
            lane = &self.tiers[priority].lanes[share]
            memset(lane, 0, sizeof(Lane))
            lane.slot[<int>RANKED] = lane.slot[<int>AGED] = NOWHERE
        self.share_total += 1

    # ---------------------------------------------------------------------------- shares: charges and scores

    cdef Moment moment(self, int64_t now_us) noexcept:
        """That instant, on the landmark it needs: a multiple of 32 half-lives since 1970, never an earlier
        one than now in use, so it depends on nothing but the latest time seen."""
        cdef Moment at
        if now_us == self.instant.us:
            return self.instant
        at.us = now_us
        at.landmark_us = now_us - now_us % self.frame_us
        if at.landmark_us < self.instant.landmark_us:
            at.landmark_us = self.instant.landmark_us
        at.inflation = inflation(now_us - at.landmark_us, self.half_life_us)
        return at

    cdef double settled(self, int32_t share, const Moment *at) noexcept:
        """The share's usage inflated to `at`, with what it holds charged up to then.

        Forward decay (Cormode, Shkapenyuk, Srivastava and Xu, 2009): a charge at time t counts 2 ** t, and
        nothing is ever scaled down as time passes. Holding a rate r from s to t adds the integral
        r x half-life / ln 2 x (2 ** t - 2 ** s).
        """
        cdef const Share *node = &self.shares[share]
        cdef int64_t halvings = (at.landmark_us - self.instant.landmark_us) // self.half_life_us
        cdef double usage = shrunk(node.usage, halvings)
        cdef double growth
        if node.rate == 0 or at.us <= node.since_us:
            return usage
        growth = at.inflation - inflation(node.since_us - at.landmark_us, self.half_life_us)
        # Two inflations a microsecond apart may differ by a rounding the wrong way.
        return usage + <double>node.rate * self.tau_s * growth if growth > 0.0 else usage

    cdef double score_of(self, int32_t share, double settled, int64_t rate, const Moment *at) noexcept:
        return (settled + <double>rate * self.ahead_s * at.inflation) / <double>self.shares[share].weight

    cdef void rebase(self, int64_t now_us) noexcept:
        """Moves the landmark on if `now_us` is 32 half-lives past it. O(shares), once in 32 half-lives."""
        cdef int64_t landmark_us = now_us - now_us % self.frame_us
        cdef int64_t halvings = (landmark_us - self.instant.landmark_us) // self.half_life_us
        cdef int32_t share
        if landmark_us <= self.instant.landmark_us:
            return
        for share in range(self.share_total):
            self.shares[share].usage = shrunk(self.shares[share].usage, halvings)
        self.instant.landmark_us = landmark_us
        self.instant.inflation = inflation(self.instant.us - landmark_us, self.half_life_us)
        self.rescore_all()

    cdef void rescore(self, int32_t share) noexcept:
        """Scores a share as of the instant. O(1).

        Its entries in the heaps keep the old score until their tier is asked for its front: a run of
        dequeues from one priority need not order the other three after each job.
        """
        cdef double score = self.score_of(
            share, self.settled(share, &self.instant), self.shares[share].rate, &self.instant
        )
        cdef int priority
        cdef Tier *tier
        if share == ROOT or score == self.scores[share]:
            return
        self.scores[share] = score
        for priority in range(PRIORITIES):
            tier = &self.tiers[priority]
            if tier.lanes[share].oldest and not self.shares[share].stale & (1 << priority):
                self.shares[share].stale |= 1 << priority
                tier.stale[tier.stale_total] = share
                tier.stale_total += 1

    cdef void refresh(self, int priority) noexcept:
        """Moves the stale entries of a tier to their places. O(stale x log fan-out)."""
        cdef Tier *tier = &self.tiers[priority]
        cdef int32_t share
        while tier.stale_total:
            tier.stale_total -= 1
            share = tier.stale[tier.stale_total]
            self.shares[share].stale &= ~(1 << priority)
            move_score(tier, share)

    cdef void rescore_all(self) noexcept:
        """Scores every share and orders every heap anew. O(shares)."""
        cdef int32_t share, at
        cdef int priority
        cdef Tier *tier
        cdef Lane *lane
        for share in range(self.share_total):
            self.scores[share] = self.score_of(
                share, self.settled(share, &self.instant), self.shares[share].rate, &self.instant
            )
            self.shares[share].stale = 0
        for priority in range(PRIORITIES):
            tier = &self.tiers[priority]
            tier.stale_total = 0
            for share in range(self.share_total):
                lane = &tier.lanes[share]
                for at in range(lane.active):
                    lane.heap[<int>RANKED][at].score = self.scores[lane.heap[<int>RANKED][at].share]
                make_heap(tier, lane.heap[<int>RANKED], lane.active)

    cdef void change_rate(self, int32_t share, int64_t change, const Moment *at) noexcept:
        """Charges the share and all above it up to `at`, then changes what they hold."""
        cdef Share *node
        while share != NOWHERE:
            node = &self.shares[share]
            node.usage = self.settled(share, at)
            if at.us > node.since_us:
                node.since_us = at.us
            node.rate += change
            self.note_holder(share)
            self.rescore(share)
            share = node.parent

    cdef void note_holder(self, int32_t share) noexcept:
        """Keeps the list of shares that hold something; the last fills a hole."""
        cdef Share *node = &self.shares[share]
        cdef int32_t moved
        if node.rate > 0 and node.held_at == NOWHERE:
            node.held_at = self.holder_total
            self.holders[self.holder_total] = share
            self.holder_total += 1
        elif node.rate == 0 and node.held_at != NOWHERE:
            self.holder_total -= 1
            moved = self.holders[self.holder_total]
            self.holders[node.held_at] = moved
            self.shares[moved].held_at = node.held_at
            node.held_at = NOWHERE


cdef int check_now(int64_t now_us) except -1:
    if not 0 <= now_us <= NOW_US_MAX:
        raise ValueError(f"now_us must be between 0 and 2**62, not {now_us}")
    return 0


cdef int check_decay(int64_t half_life_us, int64_t charge_ahead_us) except -1:
    if not 1 <= half_life_us <= HALF_LIFE_US_MAX:
        raise ValueError(f"half_life_us must be between 1 and 2**50, not {half_life_us}")
    if not 0 <= charge_ahead_us <= HALF_LIFE_US_MAX:
        raise ValueError(f"charge_ahead_us must be between 0 and 2**50, not {charge_ahead_us}")
    return 0


cdef int check_weight(int weight) except -1:
    if not 1 <= weight <= WEIGHT_MAX:
        raise ValueError(f"weight must be between 1 and {WEIGHT_MAX}, not {weight}")
    return 0


cdef int check_rate_of_one(int64_t rate) except -1:
    if not 0 <= rate <= RATE_MAX:
        raise ValueError(f"rate must be between 0 and 2**40, not {rate}")
    return 0


# ------------------------------------------------------------------------------------------------- the walk

@cython.final
cdef class Walk:
    """The heaps of one priority are copied when the walk reaches it, and jobs leave the copies as they are
    passed; the jobs themselves stay where they are, so the queue notices nothing."""

    def __dealloc__(self):
        PyMem_Free(self.tier.lanes)
        PyMem_Free(self.tier.scores)
        PyMem_Free(self.cursors)
        PyMem_Free(self.settled)
        PyMem_Free(self.taken)
        PyMem_Free(self.left)
        PyMem_Free(self.blocked)
        PyMem_Free(self.arena)
        PyMem_Free(self.frontier)

    def next(self):
        self.check()
        return self.step()

    def take(self, int64_t rate=-1):
        self.check()
        if self.last == 0:
            raise ValueError("there is nothing to take: next() gave no job since the last take()")
        if rate < 0:
            rate = self.queue.shapes[self.last_shape].rate
        check_rate_of_one(rate)
        self.charge_last(rate)
        self.last = 0

    def block(self, int shape):
        self.check()
        self.queue.check_shape(shape)
        if not self.blocked[shape]:
            self.blocked[shape] = 1
            self.left_open -= self.left[shape]

    def block_many(self, const int32_t[::1] shapes):
        cdef Py_ssize_t at
        self.check()
        for at in range(shapes.shape[0]):
            self.queue.check_shape(shapes[at])
            if not self.blocked[shapes[at]]:
                self.blocked[shapes[at]] = 1
                self.left_open -= self.left[shapes[at]]

    cdef int check(self) except -1:
        if self.queue is None:
            raise TypeError("a Walk is made by JobQueue.walk()")
        if self.version != self.queue.version:
            raise RuntimeError("the queue has changed since this walk began")
        return 0

    cdef int open(self, JobQueue queue, int64_t now_us) except -1:
        """All the memory the walk will need, so that no step can fail. Only what is active gets touched."""
        cdef int64_t shares = queue.share_total
        cdef int64_t shapes = queue.shape_total
        cdef int32_t shape
        self.tier.shares = queue.shares
        self.tier.lanes = <Lane *>resized(NULL, shares, sizeof(Lane))
        self.tier.scores = <double *>resized(NULL, shares, sizeof(double))
        self.cursors = <Cursor *>resized(NULL, shares, sizeof(Cursor))
        self.settled = <double *>resized(NULL, shares, sizeof(double))
        self.taken = <int64_t *>zeroed(shares, sizeof(int64_t))
        self.left = <int64_t *>resized(NULL, shapes + 1, sizeof(int64_t))
        self.blocked = <char *>zeroed(shapes + 1, 1)
        self.arena = <Entry *>resized(NULL, 2 * shares, sizeof(Entry))
        self.frontier = <int32_t *>resized(NULL, shares, sizeof(int32_t))
        for shape in range(queue.shape_total):
            self.left[shape] = queue.shapes[shape].waiting
            self.left_open += self.left[shape]
        memset(&self.tier.lanes[ROOT], 0, sizeof(Lane))
        self.priority = PRIORITIES
        self.at = queue.moment(now_us)
        self.version = queue.version
        self.queue = queue
        return 0

    cdef void open_tier(self) noexcept:
        """Copies what is active at the next lower priority, scored as of the walk. O(active shares)."""
        cdef int32_t done = 0
        cdef int32_t found = 1
        cdef int64_t used = 0
        cdef int32_t share, at
        cdef Lane *lane
        self.priority -= 1
        self.tier.lanes[ROOT] = self.queue.tiers[self.priority].lanes[ROOT]
        self.frontier[0] = ROOT
        while done < found:
            share = self.frontier[done]
            done += 1
            if self.tier.shares[share].children == 0:
                self.place_cursor(share)
                continue
            used = self.copy_heap(share, used)
            lane = &self.tier.lanes[share]
            for at in range(lane.active):
                self.frontier[found] = lane.heap[<int>RANKED][at].share
                found += 1
            make_heap(&self.tier, lane.heap[<int>RANKED], lane.active)

    cdef int64_t copy_heap(self, int32_t share, int64_t used) noexcept:
        """Moves a copied lane's heaps to the arena and copies and scores the children in them."""
        cdef Lane *lane = &self.tier.lanes[share]
        cdef Entry *entry
        cdef int32_t at, child
        cdef int kind
        for kind in range(kinds_kept(share)):
            memcpy(self.arena + used, lane.heap[kind], <size_t>lane.active * sizeof(Entry))
            lane.heap[kind] = self.arena + used
            used += lane.active
        for at in range(lane.active):
            entry = &lane.heap[<int>RANKED][at]
            child = entry.share
            self.tier.lanes[child] = self.queue.tiers[self.priority].lanes[child]
            self.settled[child] = self.queue.settled(child, &self.at)
            # Equal scores leave the order to age.
            self.tier.scores[child] = entry.score = 0.0 if self.fifo else self.queue.score_of(
                child, self.settled[child], self.tier.shares[child].rate + self.taken[child], &self.at
            )
        return used

    cdef void place_cursor(self, int32_t share) noexcept:
        cdef Lane *lane = &self.tier.lanes[share]
        self.cursors[share].line = lane.first
        self.cursors[share].middle = treap_after(self.queue.top, lane.middle, 0)

    cdef void pass_one(self, int32_t share, Job *job) noexcept:
        """Goes past the oldest job not passed of a leaf; the caller carries the change up."""
        cdef Cursor *cursor = &self.cursors[share]
        cdef Lane *lane = &self.tier.lanes[share]
        self.left[shape_of(job)] -= 1
        if job.shape & MIDDLE:
            cursor.middle = treap_after(self.queue.top, lane.middle, cursor.middle)
        else:
            cursor.line = job.next
        lane.oldest = older(cursor.line, cursor.middle)

    cdef int64_t pass_blocked(self, int32_t share) noexcept:
        """Goes past the blocked jobs at a leaf's front, in one run.

        Passing charges nobody. So of shares that tie, the one with the oldest open job is next whether their
        blocked jobs are passed one by one in turn or, as here, one share after the other.
        """
        cdef int64_t passed = 0
        cdef Job *job
        while self.tier.lanes[share].oldest:
            job = job_at(self.queue.top, self.tier.lanes[share].oldest)
            if not self.blocked[shape_of(job)]:
                break
            self.pass_one(share, job)
            passed += 1
        return passed

    cdef int64_t step(self) noexcept:
        cdef int32_t leaf
        cdef int64_t number
        cdef Job *job
        self.last = 0
        while self.left_open:
            # A root without children is a leaf itself.
            while self.tier.lanes[ROOT].active == 0 and self.tier.lanes[ROOT].oldest == 0:
                if self.priority == 0:
                    return 0    # those left are of a priority above the first
                self.open_tier()
            leaf = best_leaf(&self.tier)
            if self.pass_blocked(leaf):
                climb(&self.tier, leaf)
                continue
            number = self.tier.lanes[leaf].oldest
            job = job_at(self.queue.top, number)
            self.pass_one(leaf, job)
            climb(&self.tier, leaf)
            self.left_open -= 1
            self.examined += 1
            self.last = number
            self.last_share = leaf
            self.last_shape = shape_of(job)
            return number
        return 0

    cdef int charge_last(self, int64_t rate) except -1:
        """Charges the last job's owner and all above it ahead, within the walk. O(depth x log fan-out)."""
        cdef int32_t share = self.last_share
        if self.fifo:
            return 0
        if self.taken[ROOT] > RATE_SUM_MAX - rate:
            raise ValueError("the jobs taken would hold a rate above 2**62")
        while share != ROOT:
            self.taken[share] += rate
            self.tier.scores[share] = self.queue.score_of(
                share, self.settled[share], self.tier.shares[share].rate + self.taken[share], &self.at
            )
            move_score(&self.tier, share)
            share = self.tier.shares[share].parent
        self.taken[ROOT] += rate
        return 0


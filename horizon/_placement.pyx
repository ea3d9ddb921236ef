"""Which devices, and when: the bodies of what ``_placement.pxd`` lists.

Every choice is a comparison of integers that ends in the number of a node, so it never depends on how
anything is stored. Nothing is allocated while a question is being answered but the answer itself.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdlib cimport qsort
from libc.string cimport memchr, memcpy, memset

cdef int64_t TIME_MAX = 1 << 61
cdef int64_t NEVER = 1 << 62
cdef int64_t AMOUNT_MAX = 1 << 50       # cores or MiB of one node or request
cdef int64_t CLOSEST = (<int64_t>1 << 40) + (<int64_t>1 << 20) + 1      # spread_of devices in one group of each
cdef int32_t COUNT_MAX = 1 << 30        # nodes, devices, kinds, requests

cdef enum:
    IMAGINED = -1       # the number of a plan's own request
    NOTHING = 0
    PLACED = 1
    PLANNED = 2
    FITTED = 3

cdef enum Grouping:
    LINK_GROUP = 0
    NUMA_NODE = 1
    PCIE_ROOT = 2

TOPOLOGY_TRIED = TRIED
SPLITS_TRIED = SPLITS
LOST = GONE
CORDONED = CLOSED
OPEN = READY
VERDICTS = (
    "fits", "closed", "labels", "kind", "small", "shared", "devices", "cores", "memory", "reserved"
)


# ------------------------------------------------------------------------------------------------ memory

cdef void *resized(void *block, int64_t count, int64_t size) except NULL:
    """The block grown to `count` items of `size` bytes; on MemoryError the old block is untouched."""
    cdef void *grown = PyMem_Realloc(block, <size_t>((count if count else 1) * size))
    if grown == NULL:
        raise MemoryError
    return grown


cdef void *zeroed(int64_t count, int64_t size) except NULL:
    cdef void *block = PyMem_Calloc(<size_t>(count if count else 1), <size_t>size)
    if block == NULL:
        raise MemoryError
    return block


cdef inline int32_t grown_room(int32_t room) noexcept nogil:
    return 2 * room if room > 4 else 8


cdef int32_t *numbers_of(items, int32_t total, const char *what) except NULL:
    """A sequence of numbers from 0 as an array of our own."""
    cdef int32_t *numbers = <int32_t *>zeroed(total, sizeof(int32_t))
    cdef int32_t at
    try:
        for at in range(total):
            numbers[at] = items[at]
            check_number(numbers[at], 0, what)
    except BaseException:
        PyMem_Free(numbers)
        raise
    return numbers


cdef int64_t *jobs_of(numbers) except NULL:
    """A sequence of jobs' numbers as an array of our own, in growing order."""
    cdef int32_t total = <int32_t>len(numbers)
    cdef int64_t *sorted_numbers = <int64_t *>zeroed(total, sizeof(int64_t))
    cdef int32_t at
    try:
        for at in range(total):
            sorted_numbers[at] = numbers[at]
    except BaseException:
        PyMem_Free(sorted_numbers)
        raise
    qsort(sorted_numbers, <size_t>total, sizeof(int64_t), compare_numbers)
    return sorted_numbers


cdef int32_t put_in_order(int32_t *numbers, int32_t total) noexcept nogil:
    """In growing order, each once; gives how many there are then."""
    cdef int32_t at
    cdef int32_t kept = 0
    qsort(numbers, <size_t>total, sizeof(int32_t), compare_small_numbers)
    for at in range(total):
        if kept == 0 or numbers[at] != numbers[kept - 1]:
            numbers[kept] = numbers[at]
            kept += 1
    return kept


cdef int compare_small_numbers(const void *a, const void *b) noexcept nogil:
    cdef int32_t one = (<const int32_t *>a)[0]
    cdef int32_t other = (<const int32_t *>b)[0]
    return (one > other) - (one < other)


cdef inline bint among(int32_t number, const int32_t *numbers, int32_t total) noexcept nogil:
    cdef int32_t at
    for at in range(total):
        if numbers[at] == number:
            return True
    return False


cdef bint among_jobs(int64_t number, const int64_t *numbers, int32_t total) noexcept nogil:
    """Whether it is one of these, which are in growing order. O(log total)."""
    cdef int32_t low = 0
    cdef int32_t high = total
    cdef int32_t middle
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low < total and numbers[low] == number


cdef int check_number(int number, int least, const char *what) except -1:
    if not least <= number <= COUNT_MAX:
        raise ValueError(f"{what.decode()} must be between {least} and 2**30, not {number}")
    return 0


cdef int check_time(int64_t us, const char *what) except -1:
    if not 0 <= us <= TIME_MAX:
        raise ValueError(f"{what.decode()} must be between 0 and 2**61, not {us}")
    return 0


cdef int check_amount(int64_t amount, const char *what) except -1:
    if not 0 <= amount <= AMOUNT_MAX:
        raise ValueError(f"{what.decode()} must be between 0 and 2**50, not {amount}")
    return 0


# ------------------------------------------------------------------------------------- changes over time

cdef int make_room(Changes *changes) except -1:
    """Room for two more: something is taken, and later given back."""
    if changes.room < changes.total + 2:
        changes.items = <Change *>resized(changes.items, grown_room(changes.room), sizeof(Change))
        changes.room = grown_room(changes.room)
    return 0


cdef void take_until(Changes *changes, Change *change, int64_t until_us) noexcept nogil:
    """Puts in a change, and one that undoes it; there is room for both."""
    insert_change(changes, change)
    change.at_us = until_us
    change.seats, change.cores = -change.seats, -change.cores
    change.memory, change.gpus = -change.memory, -change.gpus
    insert_change(changes, change)


cdef void insert_change(Changes *changes, const Change *change) noexcept nogil:
    """Puts a change, for which there is room, behind those of the same time. O(changes)."""
    cdef int32_t at = changes.total
    while at > 0 and changes.items[at - 1].at_us > change.at_us:
        changes.items[at] = changes.items[at - 1]
        at -= 1
    changes.items[at] = change[0]
    changes.total += 1


cdef inline int32_t next_in_bucket(const uint8_t *buckets, int32_t begin, int32_t end,
                                   int32_t bucket) noexcept nogil:
    """The next node from `begin` on that is in the bucket; -1 for none."""
    cdef const void *found
    if begin >= end:
        return -1
    found = memchr(&buckets[begin], bucket, <size_t>(end - begin))
    return <int32_t>(<size_t>found - <size_t>buckets) if found != NULL else -1


cdef inline int32_t next_ready(const int64_t *ready, int32_t begin, int32_t end,
                               int64_t limit_us) noexcept nogil:
    """The next node from `begin` on that may be ready by then; `end` for none."""
    while begin < end and ready != NULL and ready[begin] > limit_us:
        begin += 1
    return begin


cdef inline int32_t bucket_of(int64_t free) noexcept nogil:
    if free <= 0:
        return 0
    return <int32_t>free if free < BUCKETS - 1 else BUCKETS - 1


# --------------------------------------------------------------------------------------------- requests

cdef inline int64_t part_of(int64_t amount, int64_t nodes, int64_t place) noexcept nogil:
    return amount // nodes + (place < amount % nodes)


cdef inline int64_t next_size(int64_t place, int64_t rest, int64_t until) noexcept nogil:
    return rest if place < rest < until else until


cdef void split_parts(const Request *request, int32_t nodes, Split *split) noexcept nogil:
    """The parts of a request over so many nodes, by size, the largest first; each fits where the one before
    it does. They change size where one of the three amounts runs out of remainder."""
    cdef int64_t place = 0
    cdef int64_t until
    cdef Level *level
    split.total = 0
    split.nodes = nodes
    while place < nodes:
        until = next_size(place, request.gpus % nodes, nodes)
        until = next_size(place, request.cores % nodes, until)
        until = next_size(place, request.memory % nodes, until)
        level = &split.levels[split.total]
        level.gpus = <int32_t>part_of(request.gpus, nodes, place)
        level.cores = part_of(request.cores, nodes, place)
        level.memory = part_of(request.memory, nodes, place)
        level.seats = request.seats
        level.count = <int32_t>(until - place)
        level.enough = <int32_t>until
        split.total += 1
        place = until


cdef Request read_request(int gpus, int gpu_type, int64_t gpu_memory_mib, int64_t cores, int64_t memory_mib,
                          int nodes, bint exclusive, labels) except *:
    """A checked request; its labels belong to whoever asked for it."""
    cdef Request made
    if not 0 <= gpus <= COUNT_MAX or not 0 <= nodes <= COUNT_MAX:
        raise ValueError("devices and nodes are 0 to 2**30")
    if 0 < gpus < nodes:
        raise ValueError(f"a request for devices has one for each of its nodes, not {gpus} for {nodes}")
    check_amount(gpu_memory_mib, b"gpu_memory_mib")
    check_amount(cores, b"cores")
    check_amount(memory_mib, b"memory_mib")
    memset(&made, 0, sizeof(Request))
    check_number(gpu_type, -1, b"a type")
    made.gpus, made.gpu_type, made.gpu_memory = gpus, gpu_type, gpu_memory_mib
    made.cores, made.memory, made.nodes = cores, memory_mib, nodes
    made.seats = SEATS if exclusive else 1
    made.label_total = <int32_t>len(labels)
    made.labels = numbers_of(labels, made.label_total, b"a label")
    made.split = -1
    return made


cdef inline bint wants_kind(const Request *request, const Kind *kind) noexcept nogil:
    return (
        (request.gpu_type < 0 or request.gpu_type == kind.gpu_type) and kind.memory >= request.gpu_memory
    )


cdef bint has_labels(const Node *node, const Request *request) noexcept nogil:
    cdef int32_t at
    for at in range(request.label_total):
        if not among(request.labels[at], node.labels, node.label_total):
            return False
    return True


cdef inline int32_t bin_of(const Node *node, int32_t kind) noexcept nogil:
    """The node's devices of a kind; NO_BIN when it has none, and for NO_KIND."""
    cdef int32_t at
    if kind == NO_KIND:
        return NO_BIN
    for at in range(node.bin_total):
        if node.bins[at].kind == kind:
            return at
    return NO_BIN


cdef inline bint has_room(const Level *part, int64_t seats, int64_t cores, int64_t memory,
                          int64_t gpus) noexcept nogil:
    """Whether this much is enough; what is not asked for may even be lacking."""
    return (
        seats >= part.seats and (part.cores == 0 or cores >= part.cores)
        and (part.memory == 0 or memory >= part.memory) and (part.gpus == 0 or gpus >= part.gpus)
    )


cdef inline bint holds_part(const Node *node, int32_t bin, const Level *part) noexcept nogil:
    """Whether the part would fit if nothing were held here."""
    if part.gpus and (bin == NO_BIN or node.bins[bin].total < part.gpus):
        return False
    return node.cores >= part.cores and node.memory >= part.memory


# ---------------------------------------------------------------------------------------------- cluster

@cython.final
cdef class Cluster:

    def __dealloc__(self):
        cdef int32_t at
        for at in range(self.node_total):
            PyMem_Free(self.nodes[at].devices)
            PyMem_Free(self.nodes[at].bins)
            PyMem_Free(self.nodes[at].holds)
            PyMem_Free(self.nodes[at].booked.items)
            PyMem_Free(self.nodes[at].labels)
        for at in range(self.kind_total):
            free_kind(&self.kinds[at])
        for at in range(self.request_total):
            PyMem_Free(self.requests[at].labels)
        PyMem_Free(self.nodes)
        PyMem_Free(self.kinds)
        PyMem_Free(self.requests)

    # ------------------------------------------------------------------------------------- what there is

    def add_kind(self, int gpu_type, int64_t memory_mib):
        cdef Kind *kind
        cdef int32_t row, node
        check_number(gpu_type, 0, b"a type")
        check_amount(memory_mib, b"memory_mib")
        if self.kind_total == self.kind_room:
            self.kinds = <Kind *>resized(self.kinds, grown_room(self.kind_room), sizeof(Kind))
            self.kind_room = grown_room(self.kind_room)
        kind = &self.kinds[self.kind_total]
        memset(kind, 0, sizeof(Kind))
        kind.memory, kind.gpu_type = memory_mib, gpu_type
        try:
            kind.tally = <int32_t *>zeroed(BUCKETS, sizeof(int32_t))
            kind.free = <uint8_t *>zeroed(self.node_room, 1)
            for row in range(READY_ROWS):
                kind.ready[row] = <int64_t *>zeroed(self.node_room, sizeof(int64_t))
        except MemoryError:
            free_kind(kind)
            raise
        kind.tally[0] = self.node_total
        for row in range(READY_ROWS):
            for node in range(self.node_total):
                kind.ready[row][node] = NEVER
        self.kind_total += 1
        self.version += 1
        return self.kind_total - 1

    def add_node(self):
        cdef int32_t at, row
        self.reserve_node()
        memset(&self.nodes[self.node_total], 0, sizeof(Node))
        for at in range(NEARNESS):
            self.nodes[self.node_total].domain[at] = -1
        self.nodes[self.node_total].free_seats = SEATS
        for at in range(self.kind_total):
            self.kinds[at].free[self.node_total] = 0
            self.kinds[at].tally[0] += 1
            for row in range(READY_ROWS):
                self.kinds[at].ready[row][self.node_total] = NEVER
        self.node_total += 1
        self.version += 1
        return self.node_total - 1

    def set_node(self, int node, int64_t cores, int64_t memory_mib, devices, labels=(), domains=()):
        cdef Node *changed = self.node_at(node)
        cdef Node made = changed[0]
        cdef int32_t at
        check_amount(cores, b"cores")
        check_amount(memory_mib, b"memory_mib")
        if len(domains) > NEARNESS:
            raise ValueError(f"a node can be in {NEARNESS} domains, not {len(domains)}")
        for at in range(NEARNESS):
            made.domain[at] = domains[at] if at < len(domains) else -1
            check_number(made.domain[at], -1, b"a domain")
        made.labels = NULL
        made.devices = NULL
        made.bins = NULL
        try:
            self.read_devices(&made, devices)
            made.label_total = <int32_t>len(labels)
            made.labels = numbers_of(labels, made.label_total, b"a label")
        except BaseException:
            PyMem_Free(made.devices)
            PyMem_Free(made.bins)
            raise
        PyMem_Free(changed.devices)
        PyMem_Free(changed.bins)
        PyMem_Free(changed.labels)
        made.cores = made.free_cores = cores
        made.memory = made.free_memory = memory_mib
        made.free_seats = SEATS
        made.hold_total = 0
        made.booked.total = 0
        changed[0] = made
        for at in range(NEARNESS):
            self.domain_most = max(self.domain_most, made.domain[at])
        self.device_most = max(self.device_most, made.device_total)
        self.forget(node)
        self.refresh(node)
        self.capacity += 1
        self.version += 1

    cdef void forget(self, int32_t index) noexcept:
        """No node keeps a bucket for a kind that it has no longer."""
        cdef int32_t kind, row
        for kind in range(self.kind_total):
            if bin_of(&self.nodes[index], kind) == NO_BIN:
                self.kinds[kind].tally[self.kinds[kind].free[index]] -= 1
                self.kinds[kind].tally[0] += 1
                self.kinds[kind].free[index] = 0
                for row in range(READY_ROWS):
                    self.kinds[kind].ready[row][index] = NEVER

    cdef int read_devices(self, Node *made, devices) except -1:
        """The devices and their bins, in the order in which the kinds first appear."""
        cdef int32_t at, bin, kind, grouping
        cdef Device *device
        made.device_total = <int32_t>len(devices)
        made.bin_total = 0
        made.devices = <Device *>zeroed(made.device_total, sizeof(Device))
        made.bins = <Bin *>zeroed(self.kind_total, sizeof(Bin))
        for at in range(made.device_total):
            device = &made.devices[at]
            kind, device.group[<int>LINK_GROUP], device.group[<int>NUMA_NODE], device.group[<int>PCIE_ROOT] = (
                devices[at]
            )
            if not 0 <= kind < self.kind_total:
                raise KeyError(f"there is no kind {kind}")
            bin = bin_of(made, kind)
            if bin == NO_BIN:
                bin = made.bin_total
                made.bins[bin].kind = kind
                made.bin_total += 1
            device.bin = bin
            device.usable = 1
            for grouping in range(GROUPINGS):
                check_number(device.group[grouping], -1, b"a group")
        for bin in range(made.bin_total):
            order_groupings(made, bin)
        made.bins = <Bin *>resized(made.bins, made.bin_total, sizeof(Bin))
        return 0

    cdef int reserve_node(self) except -1:
        cdef int32_t room = self.node_room
        cdef int32_t kind, row
        if self.node_total < room:
            return 0
        room = grown_room(room)
        for kind in range(self.kind_total):
            self.kinds[kind].free = <uint8_t *>resized(self.kinds[kind].free, room, 1)
            for row in range(READY_ROWS):
                self.kinds[kind].ready[row] = <int64_t *>resized(
                    self.kinds[kind].ready[row], room, sizeof(int64_t)
                )
        self.nodes = <Node *>resized(self.nodes, room, sizeof(Node))
        self.node_room = room
        return 0

    def set_state(self, int node, int state):
        cdef Node *changed = self.node_at(node)
        if not GONE <= state <= READY:
            raise ValueError(f"a node is LOST, CORDONED or OPEN, not {state}")
        changed.state = state
        self.refresh(node)
        self.capacity += 1
        self.version += 1

    def set_device(self, int node, int slot, bint usable):
        cdef Node *changed = self.node_at(node)
        cdef int32_t bin
        if not 0 <= slot < changed.device_total:
            raise ValueError(f"node {node} has no slot {slot}")
        bin = changed.devices[slot].bin
        changed.devices[slot].usable = usable
        self.recount(changed)
        changed.bins[bin].spread = spread_of_bin(changed, bin)
        self.refresh(node)
        self.capacity += 1
        self.version += 1

    def state(self, int node):
        return self.node_at(node).state

    def free(self, int node):
        cdef Node *asked = self.node_at(node)
        cdef int32_t at
        slots = tuple([
            at for at in range(asked.device_total)
            if asked.devices[at].usable and not asked.devices[at].holder
        ])
        return asked.free_cores, asked.free_memory, slots

    def __len__(self):
        return self.node_total

    def memory_bytes(self):
        cdef int64_t held = self.node_room * <int64_t>sizeof(Node) + self.kind_room * <int64_t>sizeof(Kind)
        cdef int32_t at
        held += self.request_room * <int64_t>sizeof(Request)
        held += self.kind_total * (BUCKETS * <int64_t>sizeof(int32_t))
        held += self.kind_total * self.node_room * (1 + READY_ROWS * <int64_t>sizeof(int64_t))
        for at in range(self.node_total):
            held += self.nodes[at].device_total * <int64_t>sizeof(Device)
            held += self.nodes[at].bin_total * <int64_t>sizeof(Bin)
            held += self.nodes[at].hold_room * <int64_t>sizeof(Hold)
            held += self.nodes[at].booked.room * <int64_t>sizeof(Change)
            held += self.nodes[at].label_total * <int64_t>sizeof(int32_t)
        for at in range(self.request_total):
            held += self.requests[at].label_total * <int64_t>sizeof(int32_t)
        return held

    cdef Node *node_at(self, int node) except NULL:
        if not 0 <= node < self.node_total:
            raise KeyError(f"there is no node {node}")
        return &self.nodes[node]

    cdef void refresh(self, int32_t node) noexcept:
        """Files the node under its free devices of each kind. O(kinds of the node)."""
        cdef Node *changed = &self.nodes[node]
        cdef Kind *kind
        cdef int32_t at, bucket
        for at in range(changed.bin_total):
            kind = &self.kinds[changed.bins[at].kind]
            bucket = bucket_of(changed.bins[at].free) if changed.state == READY else 0
            kind.tally[kind.free[node]] -= 1
            kind.tally[bucket] += 1
            kind.free[node] = <uint8_t>bucket
        self.foresee(node)

    cdef void foresee(self, int32_t index) noexcept:
        """Notes when so many devices of each kind will be free. O(kinds x holds of the node)."""
        cdef int32_t bin, row, hold
        cdef int64_t free
        cdef Kind *kind
        cdef const Node *node = &self.nodes[index]
        for bin in range(node.bin_total):
            kind = &self.kinds[node.bins[bin].kind]
            free = node.bins[bin].free
            hold = 0
            for row in range(READY_ROWS):
                kind.ready[row][index] = NEVER
            if node.state != READY:
                continue
            row = 0
            while row < READY_ROWS and row < free:
                kind.ready[row][index] = 0
                row += 1
            while row < READY_ROWS and hold < node.hold_total:
                if node.holds[hold].bin == bin:
                    free += node.holds[hold].gpus
                while row < READY_ROWS and row < free:
                    kind.ready[row][index] = max(node.holds[hold].end_us, 1)
                    row += 1
                hold += 1

    cdef void recount(self, Node *node) noexcept:
        """Counts the usable devices anew, free ones and those each hold gives back. O(devices x holds)."""
        cdef int32_t at, hold
        cdef Device *device
        for at in range(node.bin_total):
            node.bins[at].total = node.bins[at].free = 0
        for hold in range(node.hold_total):
            node.holds[hold].gpus = 0
        for at in range(node.device_total):
            device = &node.devices[at]
            if not device.usable:
                continue
            node.bins[device.bin].total += 1
            if not device.holder:
                node.bins[device.bin].free += 1
                continue
            for hold in range(node.hold_total):
                if node.holds[hold].number == device.holder and node.holds[hold].bin == device.bin:
                    node.holds[hold].gpus += 1
                    break

    # ------------------------------------------------------------------------------------- what is held

    def hold(self, int node, int64_t number, slots, int64_t cores, int64_t memory_mib, bint exclusive,
             int64_t end_us, bint seats=True):
        cdef Node *changed = self.node_at(node)
        cdef int32_t total = <int32_t>len(slots)
        cdef int32_t *taken
        cdef int32_t at, bin
        cdef Hold made
        if number < 1:
            raise ValueError(f"a job's number is 1 or more, not {number}")
        check_amount(cores, b"cores")
        check_amount(memory_mib, b"memory_mib")
        check_time(end_us, b"end_us")
        for at in range(changed.hold_total):
            if changed.holds[at].number == number:
                raise ValueError(f"job {number} holds something on node {node} already")
        taken = numbers_of(slots, total, b"a slot")
        try:
            while changed.hold_room < changed.hold_total + changed.bin_total + 1:
                changed.holds = <Hold *>resized(
                    changed.holds, grown_room(changed.hold_room), sizeof(Hold)
                )
                changed.hold_room = grown_room(changed.hold_room)
            self.hold_devices(node, number, taken, total)
            memset(&made, 0, sizeof(Hold))
            made.end_us, made.number, made.cores, made.memory = end_us, number, cores, memory_mib
            made.seats = (SEATS if exclusive else 1) if seats else 0
            made.bin = changed.devices[taken[0]].bin if total else NO_BIN
            made.gpus = usable_of_bin(changed, made.bin, taken, total)
            self.add_hold(changed, &made)
            made.cores = made.memory = made.seats = 0
            for bin in range(changed.bin_total if total else 0):
                if bin != changed.devices[taken[0]].bin and in_bin(changed, bin, taken, total):
                    made.bin = bin
                    made.gpus = usable_of_bin(changed, bin, taken, total)
                    self.add_hold(changed, &made)
        finally:
            PyMem_Free(taken)
        changed.free_cores -= cores
        changed.free_memory -= memory_mib
        changed.free_seats -= (SEATS if exclusive else 1) if seats else 0
        self.refresh(node)
        self.version += 1

    cdef int hold_devices(self, int node, int64_t number, const int32_t *slots, int32_t total) except -1:
        cdef Node *changed = &self.nodes[node]
        cdef int32_t at, refused
        for at in range(total):
            if slots[at] >= changed.device_total or changed.devices[slots[at]].holder:
                refused = slots[at]
                while at > 0:
                    at -= 1
                    changed.devices[slots[at]].holder = 0
                raise ValueError(f"slot {refused} of node {node} is held already or does not exist")
            changed.devices[slots[at]].holder = number
        for at in range(total):
            if changed.devices[slots[at]].usable:
                changed.bins[changed.devices[slots[at]].bin].free -= 1
        return 0

    cdef void add_hold(self, Node *node, const Hold *hold) noexcept:
        """Puts a hold, for which there is room, at its place by expected end. O(holds)."""
        node.holds[node.hold_total] = hold[0]
        node.hold_total += 1
        self.sort_hold(node, node.hold_total - 1)

    cdef void sort_hold(self, Node *node, int32_t at) noexcept:
        """Moves one hold to its place among the others, which are in order."""
        cdef Hold hold = node.holds[at]
        while at > 0 and ends_before(&hold, &node.holds[at - 1]):
            node.holds[at] = node.holds[at - 1]
            at -= 1
        while at + 1 < node.hold_total and ends_before(&node.holds[at + 1], &hold):
            node.holds[at] = node.holds[at + 1]
            at += 1
        node.holds[at] = hold

    def expect(self, int node, int64_t number, int64_t end_us):
        cdef Node *changed = self.node_at(node)
        cdef int32_t at = 0
        cdef bint moved = False
        check_time(end_us, b"end_us")
        while at < changed.hold_total:
            if changed.holds[at].number == number and changed.holds[at].end_us != end_us:
                changed.holds[at].end_us = end_us
                self.sort_hold(changed, at)
                moved = True
                at = -1     # it may have moved either way: look from the start for its next part
            at += 1
        if moved:
            self.foresee(node)
            self.version += 1

    def release(self, int node, int64_t number):
        cdef Node *changed = self.node_at(node)
        cdef int32_t at
        cdef int32_t kept = 0
        for at in range(changed.hold_total):
            if changed.holds[at].number == number:
                changed.free_cores += changed.holds[at].cores
                changed.free_memory += changed.holds[at].memory
                changed.free_seats += changed.holds[at].seats
                continue
            changed.holds[kept] = changed.holds[at]
            kept += 1
        if kept == changed.hold_total:
            return
        changed.hold_total = kept
        for at in range(changed.device_total):
            if changed.devices[at].holder == number:
                changed.devices[at].holder = 0
                if changed.devices[at].usable:
                    changed.bins[changed.devices[at].bin].free += 1
        self.refresh(node)
        self.version += 1

    def book(self, int node, int booking, int64_t start_us, int64_t end_us):
        cdef Node *changed = self.node_at(node)
        cdef Change change
        cdef int32_t at
        check_time(start_us, b"start_us")
        check_time(end_us, b"end_us")
        check_number(booking, 1, b"a booking")
        if end_us <= start_us:
            raise ValueError("a booking ends after its start")
        for at in range(changed.booked.total):
            if changed.booked.items[at].booking == booking:
                raise ValueError(f"booking {booking} is on node {node} already")
        make_room(&changed.booked)
        memset(&change, 0, sizeof(Change))
        change.booking, change.bin = booking, NO_BIN
        change.at_us, change.seats = start_us, -SEATS
        take_until(&changed.booked, &change, end_us)
        self.version += 1

    def unbook(self, int node, int booking):
        cdef Changes *booked = &self.node_at(node).booked
        cdef int32_t at
        cdef int32_t kept = 0
        for at in range(booked.total):
            if booked.items[at].booking != booking:
                booked.items[kept] = booked.items[at]
                kept += 1
        if kept < booked.total:
            booked.total = kept
            self.version += 1

    # -------------------------------------------------------------------------------------------- snapshots

    def dump(self):
        cdef int32_t at
        return (
            [(self.kinds[at].gpu_type, self.kinds[at].memory) for at in range(self.kind_total)],
            [dump_node(&self.nodes[at]) for at in range(self.node_total)],
            [dump_request(&self.requests[at]) for at in range(self.request_total)],
        )

    @staticmethod
    def load(dump):
        cdef Cluster cluster = Cluster()
        kinds, nodes, requests = dump
        for kind in kinds:
            cluster.add_kind(*kind)
        for node in nodes:
            cluster.load_node(cluster.add_node(), node)
        for request in requests:
            cluster.add_request(*request)
        return cluster

    cdef int load_node(self, int32_t index, dump) except -1:
        """Holds and bookings go back in as they stood: even those that end together keep their order."""
        cdef Node *node = self.node_at(index)
        cdef int32_t at, slot
        state, cores, memory_mib, devices, unusable, holders, holds, booked, labels, domains = dump
        self.set_node(index, cores, memory_mib, devices, labels, domains)
        for slot in unusable:
            self.set_device(index, slot, False)
        for at in range(len(holders)):
            slot, number = holders[at]
            if not 0 <= slot < node.device_total or number < 1:
                raise ValueError(f"slot {slot} of node {index} cannot be held by job {number}")
            node.devices[slot].holder = number
        node.holds = <Hold *>resized(node.holds, len(holds), sizeof(Hold))
        node.hold_room = <int32_t>len(holds)
        for at in range(node.hold_room):
            node.holds[at] = load_hold(node, holds[at])
            node.hold_total += 1
            node.free_cores -= node.holds[at].cores
            node.free_memory -= node.holds[at].memory
            node.free_seats -= node.holds[at].seats
        for at in range(len(booked)):
            make_room(&node.booked)
            node.booked.items[at] = load_change(booked[at])
            node.booked.total += 1
        self.recount(node)
        self.set_state(index, state)
        return 0

    # --------------------------------------------------------------------------------- what is asked for

    def add_request(self, int gpus, int gpu_type, int64_t gpu_memory_mib, int64_t cores, int64_t memory_mib,
                    int nodes, bint exclusive, labels=()):
        cdef Request made
        if self.request_total == self.request_room:
            self.requests = <Request *>resized(
                self.requests, grown_room(self.request_room), sizeof(Request)
            )
            self.request_room = grown_room(self.request_room)
        made = read_request(gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, labels)
        self.requests[self.request_total] = made
        self.request_total += 1
        return self.request_total - 1

    def nodes_for(self, int request, avoid=()):
        cdef Request *asked = self.request_at(request)
        cdef int32_t total = <int32_t>len(avoid)
        cdef int32_t *avoided
        if total == 0:
            return self.split_of(asked)
        avoided = self.nodes_of(avoid)
        try:
            return self.split_over(asked, avoided, total)
        finally:
            PyMem_Free(avoided)

    def plan(self, int64_t now_us):
        check_time(now_us, b"now_us")
        cdef Plan plan = Plan.__new__(Plan)
        plan.open(self, now_us)
        return plan

    cdef int32_t *nodes_of(self, nodes) except NULL:
        """A sequence of nodes as an array of its own."""
        cdef int32_t total = <int32_t>len(nodes)
        cdef int32_t *numbers = <int32_t *>zeroed(total, sizeof(int32_t))
        cdef int32_t at
        try:
            for at in range(total):
                numbers[at] = nodes[at]
                self.node_at(numbers[at])
        except BaseException:
            PyMem_Free(numbers)
            raise
        return numbers

    cdef Request *request_at(self, int request) except NULL:
        if not 0 <= request < self.request_total:
            raise KeyError(f"there is no request {request}")
        return &self.requests[request]

    cdef int32_t split_of(self, Request *request) noexcept:
        if request.split < 0 or request.split_at != self.capacity:
            request.split = self.split_over(request, NULL, 0)
            request.split_at = self.capacity
        return request.split

    cdef int32_t split_over(self, const Request *request, const int32_t *avoid, int32_t avoid_total) noexcept:
        """Over how many nodes the request is split; 0 if they can never hold it."""
        cdef Split split
        cdef int64_t amount = request.gpus if request.gpus else request.cores
        cdef int64_t nodes = request.nodes if request.nodes else 1
        cdef int64_t last = nodes
        cdef int64_t most
        if request.nodes == 0:
            most = self.most_on_one(request, avoid, avoid_total)
            if most == 0:
                return 0
            # Fewer nodes than that cannot hold it; each of a gang has a device or, without any, a core.
            nodes = max((amount + most - 1) // most, 1)
            last = min(<int64_t>self.node_total, max(amount, 1), nodes + SPLITS - 1)
        while nodes <= last and nodes <= self.node_total:
            split_parts(request, <int32_t>nodes, &split)
            if self.holds_empty(request, &split, avoid, avoid_total):
                return <int32_t>nodes
            nodes += 1
        return 0

    cdef int64_t most_on_one(self, const Request *request, const int32_t *avoid, int32_t avoid_total) noexcept:
        """The most devices of one kind, or cores, that a node may give to the request."""
        cdef int64_t most = 0
        cdef int32_t at, bin
        cdef Node *node
        for at in range(self.node_total):
            node = &self.nodes[at]
            if node.state == GONE or among(at, avoid, avoid_total) or not has_labels(node, request):
                continue
            if request.gpus == 0:
                most = max(most, node.cores if request.cores else 1)
                continue
            for bin in range(node.bin_total):
                if wants_kind(request, &self.kinds[node.bins[bin].kind]):
                    most = max(most, node.bins[bin].total)
        return most

    cdef bint holds_empty(self, const Request *request, const Split *split, const int32_t *avoid,
                          int32_t avoid_total) noexcept:
        """Whether the nodes would hold these parts if they were empty."""
        cdef int32_t kind
        if request.gpus == 0:
            return self.kind_holds_empty(request, split, NO_KIND, avoid, avoid_total)
        for kind in range(self.kind_total):
            if wants_kind(request, &self.kinds[kind]) and self.kind_holds_empty(
                request, split, kind, avoid, avoid_total
            ):
                return True
        return False

    cdef bint kind_holds_empty(self, const Request *request, const Split *split, int32_t kind,
                               const int32_t *avoid, int32_t avoid_total) noexcept:
        cdef int32_t fitting[LEVELS]
        cdef int32_t at, bin, level
        cdef Node *node
        memset(fitting, 0, sizeof(fitting))
        for at in range(self.node_total):
            node = &self.nodes[at]
            if node.state == GONE or among(at, avoid, avoid_total) or not has_labels(node, request):
                continue
            bin = bin_of(node, kind)
            for level in range(split.total):
                if holds_part(node, bin, &split.levels[level]):
                    fitting[level] += 1
            if fitting[0] >= split.nodes:
                return True
        for level in range(split.total):
            if fitting[level] < split.levels[level].enough:
                return False
        return True


cdef tuple dump_node(const Node *node):
    cdef int32_t at
    return (
        node.state,
        node.cores,
        node.memory,
        [dump_device(node, at) for at in range(node.device_total)],
        [at for at in range(node.device_total) if not node.devices[at].usable],
        [(at, node.devices[at].holder) for at in range(node.device_total) if node.devices[at].holder],
        [dump_hold(&node.holds[at]) for at in range(node.hold_total)],
        [dump_change(&node.booked.items[at]) for at in range(node.booked.total)],
        [node.labels[at] for at in range(node.label_total)],
        [node.domain[at] for at in range(NEARNESS)],
    )


cdef tuple dump_device(const Node *node, int32_t slot):
    cdef const Device *device = &node.devices[slot]
    return (
        node.bins[device.bin].kind,
        device.group[<int>LINK_GROUP],
        device.group[<int>NUMA_NODE],
        device.group[<int>PCIE_ROOT],
    )


cdef tuple dump_hold(const Hold *hold):
    """Without its devices: they are counted by who holds them."""
    return hold.end_us, hold.number, hold.cores, hold.memory, hold.seats, hold.bin


cdef Hold load_hold(const Node *node, dump) except *:
    cdef Hold hold
    memset(&hold, 0, sizeof(Hold))
    hold.end_us, hold.number, hold.cores, hold.memory, hold.seats, hold.bin = dump
    check_time(hold.end_us, b"end_us")
    check_amount(hold.cores, b"cores")
    check_amount(hold.memory, b"memory_mib")
    if hold.number < 1 or not 0 <= hold.seats <= SEATS or not NO_BIN <= hold.bin < node.bin_total:
        raise ValueError(f"job {hold.number} cannot hold that")
    return hold


cdef tuple dump_change(const Change *change):
    """Of a booking: nothing but seats changes."""
    return change.at_us, change.seats, change.booking


cdef Change load_change(dump) except *:
    cdef Change change
    memset(&change, 0, sizeof(Change))
    change.bin = NO_BIN
    change.at_us, change.seats, change.booking = dump
    check_time(change.at_us, b"at_us")
    if not -SEATS <= change.seats <= SEATS or change.booking < 1:
        raise ValueError(f"{change.booking} is no booking")
    return change


cdef tuple dump_request(const Request *request):
    cdef int32_t at
    return (
        request.gpus,
        request.gpu_type,
        request.gpu_memory,
        request.cores,
        request.memory,
        request.nodes,
        request.seats == SEATS,
        [request.labels[at] for at in range(request.label_total)],
    )


cdef void free_kind(Kind *kind) noexcept:
    cdef int32_t row
    PyMem_Free(kind.tally)
    PyMem_Free(kind.free)
    for row in range(READY_ROWS):
        PyMem_Free(kind.ready[row])


cdef inline bint ends_before(const Hold *a, const Hold *b) noexcept nogil:
    return a.end_us < b.end_us or (a.end_us == b.end_us and a.number < b.number)


cdef bint in_bin(const Node *node, int32_t bin, const int32_t *slots, int32_t total) noexcept nogil:
    cdef int32_t at
    for at in range(total):
        if node.devices[slots[at]].bin == bin:
            return True
    return False


cdef int32_t usable_of_bin(const Node *node, int32_t bin, const int32_t *slots, int32_t total) noexcept nogil:
    cdef int32_t at
    cdef int32_t usable = 0
    for at in range(total):
        if node.devices[slots[at]].bin == bin and node.devices[slots[at]].usable:
            usable += 1
    return usable


cdef void order_groupings(Node *node, int32_t bin) noexcept nogil:
    """Which groupings all devices of a bin have, the one with the smallest groups first."""
    cdef int32_t sizes[GROUPINGS]
    cdef int32_t grouping, size, at
    cdef Bin *ordered = &node.bins[bin]
    ordered.total = ordered.free = 0
    for at in range(node.device_total):
        ordered.total += node.devices[at].bin == bin
    ordered.free = ordered.total
    ordered.groupings = 0
    ordered.flat = is_flat(node, bin)
    ordered.spread = spread_of_bin(node, bin)
    for grouping in range(GROUPINGS):
        size = largest_group(node, bin, grouping)
        if size == 0:
            continue
        at = ordered.groupings
        while at > 0 and sizes[at - 1] > size:
            sizes[at] = sizes[at - 1]
            ordered.grouping[at] = ordered.grouping[at - 1]
            at -= 1
        sizes[at] = size
        ordered.grouping[at] = grouping
        ordered.groupings += 1


cdef int64_t spread_of_bin(const Node *node, int32_t bin) noexcept nogil:
    """``spread_of`` all usable devices of a bin."""
    cdef int64_t spread = 0
    cdef int32_t grouping
    for grouping in range(GROUPINGS):
        spread = (spread << 20) + group_total(node, bin, grouping)
    return spread


cdef int32_t group_total(const Node *node, int32_t bin, int32_t grouping) noexcept nogil:
    """How many groups the usable devices of a bin are in; those in none are one more. O(devices squared)."""
    cdef int32_t at, before
    cdef int32_t total = 0
    for at in range(node.device_total):
        if node.devices[at].bin != bin or not node.devices[at].usable:
            continue
        for before in range(at):
            if (
                node.devices[before].bin == bin and node.devices[before].usable
                and node.devices[before].group[grouping] == node.devices[at].group[grouping]
            ):
                break
        else:
            total += 1
    return total


cdef bint is_flat(const Node *node, int32_t bin) noexcept nogil:
    cdef int32_t at, grouping
    for at in range(node.device_total):
        for grouping in range(GROUPINGS):
            if node.devices[at].bin == bin and node.devices[at].group[grouping] >= 0:
                return False
    return True


cdef int32_t largest_group(const Node *node, int32_t bin, int32_t grouping) noexcept nogil:
    """Devices in the largest group of a bin; 0 if some are in none. O(devices squared)."""
    cdef int32_t at, other, size
    cdef int32_t largest = 0
    for at in range(node.device_total):
        if node.devices[at].bin != bin:
            continue
        if node.devices[at].group[grouping] < 0:
            return 0
        size = 0
        for other in range(node.device_total):
            if (
                node.devices[other].bin == bin
                and node.devices[other].group[grouping] == node.devices[at].group[grouping]
            ):
                size += 1
        largest = max(largest, size)
    return largest


# ------------------------------------------------------------------------------------------------- plan

cdef int compare_candidates(const void *a, const void *b) noexcept nogil:
    cdef const Candidate *one = <const Candidate *>a
    cdef const Candidate *other = <const Candidate *>b
    if one.free != other.free:
        return -1 if one.free < other.free else 1
    if one.cores != other.cores:
        return -1 if one.cores < other.cores else 1
    return -1 if one.node < other.node else 1


cdef int compare_numbers(const void *a, const void *b) noexcept nogil:
    cdef int64_t one = (<const int64_t *>a)[0]
    cdef int64_t other = (<const int64_t *>b)[0]
    return (one > other) - (one < other)


cdef int64_t smallest(int64_t *numbers, int32_t total, int32_t rank) noexcept nogil:
    """The number that would come at this rank, from 0, were they in order (Hoare, 1961). Reorders them.
    O(total) but for the worst of inputs."""
    cdef int32_t low = 0
    cdef int32_t high = total - 1
    cdef int32_t up, down
    cdef int64_t pivot, moved
    while low < high:
        pivot = numbers[(low + high) // 2]
        up, down = low, high
        while up <= down:
            while numbers[up] < pivot:
                up += 1
            while numbers[down] > pivot:
                down -= 1
            if up <= down:
                moved = numbers[up]
                numbers[up] = numbers[down]
                numbers[down] = moved
                up += 1
                down -= 1
        if rank <= down:
            high = down
        elif rank >= up:
            low = up
        else:
            break
    return numbers[rank]


cdef inline void apply(int64_t *seats, int64_t *cores, int64_t *memory, int64_t *gpus, const Change *change,
                       int32_t bin) noexcept nogil:
    seats[0] += change.seats
    cores[0] += change.cores
    memory[0] += change.memory
    if change.bin == bin:
        gpus[0] += change.gpus


@cython.final
cdef class Plan:

    def __dealloc__(self):
        cdef int32_t at
        if self.over != NULL:
            for at in range(self.touched_total):
                PyMem_Free(self.over[self.touched[at]].changes.items)
                PyMem_Free(self.over[self.touched[at]].taken)
                PyMem_Free(self.over[self.touched[at]])
        if self.free != NULL:
            for at in range(self.kinds):
                PyMem_Free(self.free[at])
                PyMem_Free(self.tally[at])
        PyMem_Free(self.over)
        PyMem_Free(self.touched)
        PyMem_Free(self.free)
        PyMem_Free(self.tally)
        PyMem_Free(self.candidates)
        PyMem_Free(self.starts)
        PyMem_Free(self.found)
        PyMem_Free(self.found_level)
        PyMem_Free(self.slots)
        PyMem_Free(self.slot_ends)
        PyMem_Free(self.scratch)
        PyMem_Free(self.domain_counts)
        PyMem_Free(self.wanted)
        PyMem_Free(self.avoid)
        PyMem_Free(self.only)
        PyMem_Free(self.gone)
        PyMem_Free(self.imagined.labels)

    cdef int open(self, Cluster cluster, int64_t now_us) except -1:
        """All the memory that answers need but lists of devices and changes."""
        cdef int64_t nodes = cluster.node_total
        self.over = <Over **>zeroed(nodes, sizeof(Over *))
        self.touched = <int32_t *>resized(NULL, nodes, sizeof(int32_t))
        self.tally = <int32_t **>zeroed(cluster.kind_total, sizeof(int32_t *))
        self.free = <uint8_t **>zeroed(cluster.kind_total, sizeof(uint8_t *))
        self.wanted = <int32_t *>resized(NULL, cluster.kind_total, sizeof(int32_t))
        self.kinds = cluster.kind_total
        self.candidates = <Candidate *>resized(NULL, nodes, sizeof(Candidate))
        self.starts = <int64_t *>resized(NULL, nodes, sizeof(int64_t))
        self.found = <int32_t *>resized(NULL, nodes, sizeof(int32_t))
        self.found_level = <int32_t *>resized(NULL, nodes, sizeof(int32_t))
        self.slot_ends = <int32_t *>resized(NULL, nodes, sizeof(int32_t))
        self.scratch = <int32_t *>resized(NULL, (GROUPINGS + 2) * <int64_t>cluster.device_most, sizeof(int32_t))
        self.tried = self.scratch + (GROUPINGS + 1) * <int64_t>cluster.device_most
        self.domain_counts = <int32_t *>resized(
            NULL, LEVELS * <int64_t>(cluster.domain_most + 1), sizeof(int32_t)
        )
        self.cluster = cluster
        self.version = cluster.version
        self.now = now_us
        return 0

    cdef int check(self) except -1:
        if self.cluster is None:
            raise TypeError("a Plan is made by Cluster.plan()")
        if self.version != self.cluster.version:
            raise RuntimeError("the cluster has changed since this plan began")
        return 0

    @property
    def now_us(self):
        return self.now

    # -------------------------------------------------------------------------------------- the questions

    def place(self, int request, int64_t duration_us, avoid=(), only=None, bint over_reserved=False):
        cdef int32_t part, slot, begin
        self.ask(request, duration_us, avoid, only, ())
        if not self.find_now(over_reserved):
            return None
        self.pick_slots()
        answer = []
        begin = 0
        for part in range(self.found_total):
            slots = tuple([self.slots[slot] for slot in range(begin, self.slot_ends[part])])
            answer.append((self.found[part], slots))
            begin = self.slot_ends[part]
        self.found_by = PLACED
        return answer

    def fits(self, int request, int64_t duration_us, avoid=(), only=None, gone=(), bint over_reserved=False):
        self.ask(request, duration_us, avoid, only, gone)
        if not self.find_now(over_reserved):
            return None
        answer = self.found_nodes()
        self.found_by = FITTED
        return answer

    def earliest(self, int request, int64_t duration_us, avoid=()):
        self.ask(request, duration_us, avoid, None, ())
        if self.split.nodes == 0:
            return None
        if not (self.earliest_one() if self.split.nodes == 1 else self.earliest_gang()):
            return None
        answer = (self.found_start, self.found_nodes())
        self.found_by = PLANNED
        return answer

    cdef tuple found_nodes(self):
        cdef int32_t part
        return tuple([self.found[part] for part in range(self.found_total)])

    def take(self):
        cdef int32_t part
        cdef int32_t slot = 0
        self.check()
        if self.found_by != PLACED:
            raise RuntimeError("there is nothing to take: place() found nothing since the last take()")
        for part in range(self.found_total if self.found_kind != NO_KIND else 0):
            self.make_taken(self.found[part])
        self.keep(0)
        for part in range(self.found_total):
            while slot < self.slot_ends[part]:
                self.over[self.found[part]].taken[self.slots[slot]] = 1
                slot += 1

    def reserve(self):
        self.check()
        if self.found_by != PLANNED:
            raise RuntimeError("there is nothing to reserve: earliest() found nothing since the last reserve()")
        self.keep(RESERVED)

    def claim(self):
        self.check()
        if self.found_by != FITTED:
            raise RuntimeError("there is nothing to claim: fits() found nothing since the last claim()")
        self.gone_total = 0     # they hold what they hold: what is claimed of it falls below zero
        self.keep(0)

    def imagine(self, int gpus, int gpu_type, int64_t gpu_memory_mib, int64_t cores, int64_t memory_mib,
                int nodes, bint exclusive, labels=()):
        cdef Request made = read_request(
            gpus, gpu_type, gpu_memory_mib, cores, memory_mib, nodes, exclusive, labels
        )
        PyMem_Free(self.imagined.labels)
        self.imagined = made
        return IMAGINED

    def nodes_for(self, int request):
        self.ask(request, 1, (), None, ())
        return self.split.nodes

    cdef Request *request_at(self, int request) except NULL:
        if request != IMAGINED:
            return self.cluster.request_at(request)
        if self.imagined.seats == 0:
            raise KeyError("there is no request -1: imagine() makes it")
        return &self.imagined

    cdef int ask(self, int request, int64_t duration_us, avoid, only, gone) except -1:
        """Takes in a question; what an earlier one found is forgotten."""
        cdef int32_t nodes
        cdef int32_t avoid_total, only_total, gone_total
        cdef int32_t *avoided = NULL
        cdef int32_t *allowed = NULL
        cdef int64_t *released = NULL
        cdef Request *asked
        self.check()
        asked = self.request_at(request)
        if not 1 <= duration_us <= TIME_MAX:
            raise ValueError(f"duration_us must be between 1 and 2**61, not {duration_us}")
        avoid_total, gone_total = <int32_t>len(avoid), <int32_t>len(gone)
        only_total = <int32_t>len(only) if only is not None else 0
        try:
            if avoid_total:
                avoided = self.cluster.nodes_of(avoid)
            if only is not None:
                allowed = self.cluster.nodes_of(only)
            if gone_total:
                released = jobs_of(gone)
        except BaseException:
            PyMem_Free(avoided)
            PyMem_Free(allowed)
            raise
        # From here on nothing can fail.
        PyMem_Free(self.avoid)
        PyMem_Free(self.only)
        PyMem_Free(self.gone)
        self.avoid, self.only, self.gone = avoided, allowed, released
        self.avoid_total, self.gone_total = avoid_total, gone_total
        self.only_total = put_in_order(allowed, only_total) if only is not None else self.cluster.node_total
        self.request, self.duration = asked, duration_us
        self.found_by = NOTHING
        self.found_total = 0
        self.want_kinds()
        if self.avoid_total:
            nodes = self.cluster.split_over(self.request, self.avoid, self.avoid_total)
        else:
            nodes = self.cluster.split_of(self.request)
        self.split.nodes = self.split.total = 0
        if nodes:
            split_parts(self.request, nodes, &self.split)
        return 0

    cdef void want_kinds(self) noexcept:
        cdef int32_t kind
        self.wanted_total = 0
        if self.request.gpus == 0:
            self.wanted[0] = NO_KIND
            self.wanted_total = 1
            return
        for kind in range(self.cluster.kind_total):
            if wants_kind(self.request, &self.cluster.kinds[kind]):
                self.wanted[self.wanted_total] = kind
                self.wanted_total += 1

    cdef bint find_now(self, bint over_reserved) noexcept:
        cdef bint found
        if self.split.nodes == 0:
            return False
        self.over_reserved = over_reserved
        found = self.place_one() if self.split.nodes == 1 else self.place_gang()
        self.over_reserved = False
        return found

    # --------------------------------------------------------------------------------- what a plan changes

    cdef Over *over_of(self, int32_t node) except NULL:
        if self.over[node] == NULL:
            self.over[node] = <Over *>zeroed(1, sizeof(Over))
            self.touched[self.touched_total] = node
            self.touched_total += 1
        return self.over[node]

    cdef int make_taken(self, int32_t node) except -1:
        """Memory for which devices of the node are given away."""
        cdef Over *over = self.over_of(node)
        if over.taken == NULL:
            over.taken = <uint8_t *>zeroed(self.cluster.nodes[node].device_total, 1)
        return 0

    cdef int keep(self, int64_t booking) except -1:
        """Has what was found last be so, once; all of it or, without the memory, nothing."""
        cdef bint now = self.found_kind != NO_KIND and self.found_start <= self.now
        cdef int32_t part
        for part in range(self.found_total):
            make_room(&self.over_of(self.found[part]).changes)
        if now:
            self.own_buckets(self.found_kind)
        # From here on nothing can fail.
        self.found_by = NOTHING
        for part in range(self.found_total):
            self.change(part, booking)
            if now:
                self.rebucket(self.found[part])
        return 0

    cdef void change(self, int32_t part, int64_t booking) noexcept:
        """Takes a part from its node for the time that was found."""
        cdef const Level *level = &self.split.levels[self.found_level[part]]
        cdef int32_t node = self.found[part]
        cdef Change change
        change.at_us, change.booking = self.found_start, booking
        change.seats, change.cores, change.memory = -level.seats, -level.cores, -level.memory
        change.bin, change.gpus = bin_of(&self.cluster.nodes[node], self.found_kind), -level.gpus
        take_until(&self.over[node].changes, &change, self.found_start + self.duration)

    cdef inline bint counts(self, const Change *change) noexcept:
        return not self.over_reserved or change.booking != RESERVED

    cdef void rebucket(self, int32_t node) noexcept:
        """Files the node under what is free of it now, in the plan's own buckets of the kind found."""
        cdef int32_t kind = self.found_kind
        cdef int32_t bucket = bucket_of(self.free_devices(node, bin_of(&self.cluster.nodes[node], kind)))
        self.tally[kind][self.free[kind][node]] -= 1
        self.tally[kind][bucket] += 1
        self.free[kind][node] = <uint8_t>bucket

    cdef int own_buckets(self, int32_t kind) except -1:
        cdef int64_t nodes = self.cluster.node_total
        if self.free[kind] != NULL:
            return 0
        if self.tally[kind] == NULL:
            self.tally[kind] = <int32_t *>zeroed(BUCKETS, sizeof(int32_t))
        self.free[kind] = <uint8_t *>resized(NULL, nodes, 1)
        memcpy(self.tally[kind], self.cluster.kinds[kind].tally, BUCKETS * sizeof(int32_t))
        memcpy(self.free[kind], self.cluster.kinds[kind].free, <size_t>nodes)
        return 0

    cdef inline const uint8_t *buckets(self, int32_t kind) noexcept:
        return self.free[kind] if self.free[kind] != NULL else self.cluster.kinds[kind].free

    cdef inline const int32_t *tallies(self, int32_t kind) noexcept:
        return self.tally[kind] if self.free[kind] != NULL else self.cluster.kinds[kind].tally

    def idle(self):
        cdef int32_t kind
        self.check()
        for kind in range(self.cluster.kind_total):
            if self.tallies(kind)[0] < self.cluster.node_total:
                return True
        return False

    # -------------------------------------------------------------------------------- what is free, and when

    cdef int64_t free_devices(self, int32_t node, int32_t bin) noexcept:
        """Devices of a bin free now."""
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef int64_t free = asked.bins[bin].free
        cdef int32_t at
        if over != NULL:
            for at in range(over.changes.total):
                if over.changes.items[at].at_us > self.now:
                    break
                if over.changes.items[at].bin == bin and self.counts(&over.changes.items[at]):
                    free += over.changes.items[at].gpus
        if self.gone_total:
            for at in range(asked.hold_total):
                if asked.holds[at].bin == bin and self.is_gone(asked.holds[at].number):
                    free += asked.holds[at].gpus
        return free

    cdef inline int64_t tight_devices(self, int32_t node, int32_t bin) noexcept:
        """Free devices that make a node tight or not: those of the bin, of any when there is none."""
        return self.free_any(node) if bin == NO_BIN else self.free_devices(node, bin)

    cdef inline int64_t tight_cores(self, int32_t node, int32_t bin) noexcept:
        """Free cores that do, for a request without devices."""
        return self.free_cores(node) if bin == NO_BIN else 0

    cdef int64_t free_any(self, int32_t node) noexcept:
        cdef int64_t free = 0
        cdef int32_t bin
        for bin in range(self.cluster.nodes[node].bin_total):
            free += self.free_devices(node, bin)
        return free

    cdef int64_t free_cores(self, int32_t node) noexcept:
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef int64_t free = asked.free_cores
        cdef int32_t at
        if over != NULL:
            for at in range(over.changes.total):
                if over.changes.items[at].at_us > self.now:
                    break
                if self.counts(&over.changes.items[at]):
                    free += over.changes.items[at].cores
        for at in range(asked.hold_total if self.gone_total else 0):
            if self.is_gone(asked.holds[at].number):
                free += asked.holds[at].cores
        return free

    cdef int64_t free_seats(self, int32_t node) noexcept:
        """Seats free now, less those that bookings have taken."""
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef int64_t free = asked.free_seats
        cdef int32_t at
        for at in range(over.changes.total if over != NULL else 0):
            if over.changes.items[at].at_us <= self.now:
                free += over.changes.items[at].seats
        for at in range(asked.booked.total):
            if self.has_begun(&asked.booked.items[at]):
                free += asked.booked.items[at].seats
        return free

    cdef int64_t next_start(self, int32_t node, int32_t bin, const Level *part, int64_t from_us,
                            int64_t limit_us) noexcept:
        """The first time from `from_us` to `limit_us` at which the node has room for the part throughout the
        duration; -1 for none. O(holds + changes of the node).

        Three lists in order of time are walked together: holds that end, bookings, and the plan's changes.
        """
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef int64_t seats = asked.free_seats
        cdef int64_t cores = asked.free_cores
        cdef int64_t memory = asked.free_memory
        cdef int64_t gpus = asked.bins[bin].free if bin != NO_BIN else 0
        cdef int64_t at_us = from_us
        cdef int64_t candidate = -1
        cdef int64_t next_us, hold_us, booked_us, own_us
        cdef int32_t hold = 0
        cdef int32_t booked = 0
        cdef int32_t own = 0
        cdef int32_t own_total = over.changes.total if over != NULL else 0
        cdef const Hold *ended
        cdef const Change *change
        cdef int32_t at
        if self.gone_total:
            for at in range(asked.hold_total):
                ended = &asked.holds[at]
                if self.is_gone(ended.number):
                    seats += ended.seats
                    cores += ended.cores
                    memory += ended.memory
                    gpus += ended.gpus if ended.bin == bin else 0
        # Bookings that have begun hold already; the others come in turn.
        for at in range(asked.booked.total):
            if self.has_begun(&asked.booked.items[at]):
                seats += asked.booked.items[at].seats
        while True:
            hold_us = booked_us = own_us = NEVER
            while hold < asked.hold_total and self.gone_total and self.is_gone(asked.holds[hold].number):
                hold += 1
            if hold < asked.hold_total:
                hold_us = max(asked.holds[hold].end_us, self.now + 1)
            while booked < asked.booked.total and self.has_begun(&asked.booked.items[booked]):
                booked += 1
            if booked < asked.booked.total:
                booked_us = max(asked.booked.items[booked].at_us, self.now + 1)
            if own < own_total:
                own_us = over.changes.items[own].at_us
            next_us = min(hold_us, booked_us, own_us)
            if next_us > at_us:
                # What is free now stays so from `at_us` until `next_us`.
                if has_room(part, seats, cores, memory, gpus):
                    if candidate < 0:
                        candidate = at_us
                    if candidate > limit_us:
                        return -1
                    if next_us == NEVER or next_us - candidate >= self.duration:
                        return candidate
                else:
                    candidate = -1
                    if next_us == NEVER or next_us > limit_us:
                        return -1
                at_us = next_us
            if next_us == hold_us:
                ended = &asked.holds[hold]
                seats += ended.seats
                cores += ended.cores
                memory += ended.memory
                gpus += ended.gpus if ended.bin == bin else 0
                hold += 1
            elif next_us == booked_us:
                seats += asked.booked.items[booked].seats
                booked += 1
            else:
                change = &over.changes.items[own]
                if self.counts(change):
                    apply(&seats, &cores, &memory, &gpus, change, bin)
                own += 1

    cdef inline bint is_gone(self, int64_t number) noexcept:
        return among_jobs(number, self.gone, self.gone_total)

    cdef inline bint has_begun(self, const Change *booked) noexcept:
        """Whether this is the start of a booking, and over."""
        return booked.at_us <= self.now and booked.seats < 0

    cdef const int64_t *ready_for(self, int32_t kind, const Level *part) noexcept:
        """By node, a time before which a part cannot start there; NULL when that is not known."""
        if kind == NO_KIND or self.gone_total or self.over_reserved:
            return NULL
        return self.cluster.kinds[kind].ready[min(part.gpus, READY_ROWS) - 1]

    cdef int64_t start_on(self, int32_t node, int32_t bin, const Level *part, int64_t from_us,
                          int64_t limit_us) noexcept:
        """The same as ``next_start``, at once where only devices are asked for and only holds are in the way;
        for ``earliest``, to which nobody is gone."""
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef int64_t start
        if bin == NO_BIN:
            return self.next_start(node, bin, part, from_us, limit_us)
        start = self.cluster.kinds[asked.bins[bin].kind].ready[min(part.gpus, READY_ROWS) - 1][node]
        if start:
            start = max(start, self.now + 1)
        start = max(start, from_us)
        if start > limit_us:
            return -1
        if (
            part.gpus <= READY_ROWS and part.cores == 0 and part.memory == 0 and part.seats == 1
            and asked.free_seats >= 1 and asked.booked.total == 0 and self.over[node] == NULL
        ):
            return start
        return self.next_start(node, bin, part, from_us, limit_us)

    cdef inline bint fits_now(self, int32_t node, int32_t bin, const Level *part) noexcept:
        cdef const Node *asked = &self.cluster.nodes[node]
        if self.over[node] == NULL and asked.booked.total == 0 and self.gone_total == 0:
            # What is held only ever comes back: room now is room for good.
            return has_room(
                part, asked.free_seats, asked.free_cores, asked.free_memory,
                asked.bins[bin].free if bin != NO_BIN else 0,
            )
        return self.next_start(node, bin, part, self.now, self.now) == self.now

    cdef inline bint may_use(self, int32_t node) noexcept:
        cdef const Node *asked = &self.cluster.nodes[node]
        return (
            asked.state == READY and has_labels(asked, self.request)
            and not among(node, self.avoid, self.avoid_total)
        )

    # ------------------------------------------------------------------------------- which devices of a node

    cdef inline bint slot_is_free(self, const Node *node, const Over *over, int32_t slot) noexcept:
        cdef const Device *device = &node.devices[slot]
        if not device.usable or (over != NULL and over.taken != NULL and over.taken[slot]):
            return False
        return device.holder == 0 or self.is_gone(device.holder)

    cdef void choose_devices(self, int32_t node, int32_t bin, int32_t count, int32_t *chosen) noexcept:
        """Puts `count` free devices of a bin, which has as many, into `chosen`, in order of slot."""
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef const Bin *of = &asked.bins[bin]
        cdef int32_t total = 0
        cdef int32_t depth = 0
        cdef int32_t slot, number
        for slot in range(asked.device_total):
            if asked.devices[slot].bin == bin and self.slot_is_free(asked, over, slot):
                self.scratch[total] = slot
                total += 1
        # The smallest group that has enough; without one, all of them are the group.
        while depth < of.groupings:
            number = next_group(asked, of.grouping[depth], self.scratch, total, count)
            if group_size(asked, of.grouping[depth], self.scratch, total, number) >= count:
                total = copy_group(asked, of.grouping[depth], self.scratch, total, number, self.scratch)
                break
            depth += 1
        self.fill(asked, of, self.scratch, total, count, depth, chosen)
        sort_slots(chosen, count)

    cdef void fill(self, const Node *node, const Bin *bin, int32_t *slots, int32_t total, int32_t need,
                   int32_t depth, int32_t *chosen) noexcept:
        """Takes `need` of the slots, which are as many at least, whole groups of the next smaller grouping
        first. `depth` counts the groupings that are smaller than the slots' own."""
        cdef int32_t *group = slots + self.cluster.device_most
        cdef int32_t grouping, number, inside, taken
        if depth == 0 or need == total:
            memcpy(chosen, slots, need * sizeof(int32_t))
            return
        grouping = bin.grouping[depth - 1]
        while need > 0:
            number = next_group(node, grouping, slots, total, need)
            inside = copy_group(node, grouping, slots, total, number, group)
            total = without_group(node, grouping, slots, total, number)
            taken = min(need, inside)
            self.fill(node, bin, group, inside, taken, depth - 1, chosen)
            chosen += taken
            need -= taken

    # ------------------------------------------------------------------------------------------ a single node

    cdef void consider(self, Best *best, int32_t node, int32_t kind) noexcept:
        """Takes the node if the part fits there now and it is the better choice."""
        cdef const Level *part = &self.split.levels[0]
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef int32_t bin = bin_of(asked, kind)
        cdef int64_t free, cores, spread
        if (part.gpus and bin == NO_BIN) or not self.may_use(node):
            return
        free = self.tight_devices(node, bin)
        if (part.gpus and free < part.gpus) or (best.node >= 0 and free > best.free):
            return
        cores = self.tight_cores(node, bin)
        if best.node >= 0 and free == best.free:
            if cores > best.cores or (part.gpus and best.tried >= TRIED):
                return
        if not self.fits_now(node, bin, part):
            return
        if best.node < 0 or free < best.free:
            best.tried = 0
            best.node = -1
        best.tried += 1
        spread = 0
        if part.gpus and part.gpus == free == asked.bins[bin].total and self.gone_total == 0:
            spread = asked.bins[bin].spread     # all of them
        elif part.gpus and not asked.bins[bin].flat:
            self.choose_devices(node, bin, part.gpus, self.tried)
            spread = spread_of(asked, self.tried, part.gpus)
        elif part.gpus:
            spread = CLOSEST
        if best.node < 0 or cores < best.cores or spread < best.spread:
            best.free, best.cores, best.spread = free, cores, spread
            best.node, best.kind = node, kind

    cdef void search_buckets(self, Best *best, int32_t kind) noexcept:
        """The tightest node of a kind, looked for from the bucket with just enough free devices upwards."""
        cdef const uint8_t *buckets = self.buckets(kind)
        cdef const int32_t *tallies = self.tallies(kind)
        cdef int32_t bucket
        cdef int32_t node
        for bucket in range(bucket_of(self.split.levels[0].gpus), BUCKETS):
            if tallies[bucket] == 0:
                continue
            node = next_in_bucket(buckets, 0, self.cluster.node_total, bucket)
            while node >= 0:
                self.consider(best, node, kind)
                if bucket < BUCKETS - 1 and best.node >= 0 and (
                    best.tried >= TRIED or best.spread == CLOSEST
                ):
                    return
                node = next_in_bucket(buckets, node + 1, self.cluster.node_total, bucket)
            if best.node >= 0:
                return

    cdef void search_all(self, Best *best, int32_t kind) noexcept:
        cdef int32_t at
        for at in range(self.only_total):
            self.consider(best, at if self.only == NULL else self.only[at], kind)

    cdef void search(self, Best *best, int32_t kind) noexcept:
        best.node = -1
        best.tried = 0
        if kind != NO_KIND and self.only == NULL and self.gone_total == 0 and not self.over_reserved:
            self.search_buckets(best, kind)
        else:
            self.search_all(best, kind)

    cdef bint place_one(self) noexcept:
        cdef Best best, other
        cdef int32_t at
        best.node = -1
        for at in range(self.wanted_total):
            self.search(&other, self.wanted[at])
            if other.node >= 0 and (
                best.node < 0 or other.free < best.free
                or (other.free == best.free and other.spread < best.spread)
            ):
                best = other
        if best.node < 0:
            return False
        self.answer_one(best.node, best.kind, self.now)
        return True

    cdef void answer_one(self, int32_t node, int32_t kind, int64_t start_us) noexcept:
        self.found[0] = node
        self.found_level[0] = 0
        self.found_total = 1
        self.found_kind = kind
        self.found_start = start_us

    cdef bint earliest_one(self) noexcept:
        cdef int32_t total = self.cluster.node_total
        cdef Best best
        cdef const int64_t *ready
        cdef int32_t at, node
        best.node = -1
        self.found_start = NEVER
        for at in range(self.wanted_total):
            # Most nodes are out of the question by this alone.
            ready = self.ready_for(self.wanted[at], &self.split.levels[0])
            node = next_ready(ready, 0, total, self.found_start)
            while node < total:
                self.consider_later(&best, node, self.wanted[at])
                node = next_ready(ready, node + 1, total, self.found_start)
        return best.node >= 0

    cdef void consider_later(self, Best *best, int32_t node, int32_t kind) noexcept:
        """Takes the node if the part fits there sooner, or at the same time and it is tighter."""
        cdef const Level *part = &self.split.levels[0]
        cdef int32_t bin = bin_of(&self.cluster.nodes[node], kind)
        cdef int64_t start, free, cores
        if not self.can_ever(node, bin, part):
            return
        start = self.start_on(node, bin, part, self.now, self.found_start)
        if start < 0:
            return
        free, cores = self.tight_devices(node, bin), self.tight_cores(node, bin)
        if start < self.found_start or (
            kind == best.kind and (free < best.free or (free == best.free and cores < best.cores))
        ):
            best.node, best.kind, best.free, best.cores = node, kind, free, cores
            self.answer_one(node, kind, start)

    cdef inline bint can_ever(self, int32_t node, int32_t bin, const Level *part) noexcept:
        return holds_part(&self.cluster.nodes[node], bin, part) and self.may_use(node)

    # ------------------------------------------------------------------------------------------------ gangs

    cdef bint are_enough(self, int32_t kind) noexcept:
        """Whether as many nodes as there are parts have devices enough for the smallest now; a quick no."""
        cdef int32_t bucket
        cdef int64_t nodes = 0
        if kind == NO_KIND or self.gone_total or self.over_reserved:
            return True
        for bucket in range(bucket_of(self.split.levels[self.split.total - 1].gpus), BUCKETS):
            nodes += self.tallies(kind)[bucket]
        return nodes >= self.split.nodes

    cdef bint place_gang(self) noexcept:
        cdef int32_t at
        cdef int32_t best_kind = NO_KIND
        cdef int64_t tightest
        cdef int64_t best = NEVER
        for at in range(self.wanted_total):
            if not self.are_enough(self.wanted[at]):
                continue
            tightest = self.choose_gang(self.wanted[at], self.now)
            if 0 <= tightest < best:
                best, best_kind = tightest, self.wanted[at]
        if best == NEVER:
            return False
        if best_kind != self.wanted[self.wanted_total - 1]:
            self.choose_gang(best_kind, self.now)    # a later kind has been looked at since
        return True

    cdef int64_t choose_gang(self, int32_t kind, int64_t at_us) noexcept:
        """Chooses a node for every part at that time; gives the free devices of the tightest, -1 if there is
        no room for all."""
        cdef int32_t total = self.gather(kind, at_us)
        if total < 0:
            return -1
        total = self.keep_near(total)
        qsort(self.candidates, <size_t>total, sizeof(Candidate), compare_candidates)
        self.found_kind = kind
        self.found_start = at_us
        return self.assign(total)

    cdef int32_t gather(self, int32_t kind, int64_t at_us) noexcept:
        """The nodes where a part fits at that time, with the largest that does; -1 if they are too few."""
        cdef int32_t fitting[LEVELS]
        cdef int32_t at, node, bin, level
        cdef int32_t total = 0
        cdef Candidate *candidate
        cdef const int64_t *ready = self.ready_for(kind, &self.split.levels[self.split.total - 1])
        memset(fitting, 0, sizeof(fitting))
        for at in range(self.only_total):
            node = at if self.only == NULL else self.only[at]
            if ready != NULL and ready[node] > at_us:
                continue
            bin = bin_of(&self.cluster.nodes[node], kind)
            if not self.can_ever(node, bin, &self.split.levels[self.split.total - 1]):
                continue
            for level in range(self.split.total):
                if self.fits_at(node, bin, &self.split.levels[level], at_us):
                    candidate = &self.candidates[total]
                    candidate.node, candidate.level = node, level
                    candidate.free = self.tight_devices(node, bin)
                    candidate.cores = self.tight_cores(node, bin)
                    total += 1
                    break
        for at in range(total):
            for level in range(self.candidates[at].level, self.split.total):
                fitting[level] += 1
        for level in range(self.split.total):
            if fitting[level] < self.split.levels[level].enough:
                return -1
        return total

    cdef inline bint fits_at(self, int32_t node, int32_t bin, const Level *part, int64_t at_us) noexcept:
        if at_us == self.now:
            return self.fits_now(node, bin, part)
        return self.start_on(node, bin, part, at_us, at_us) == at_us

    cdef int32_t keep_near(self, int32_t total) noexcept:
        """Of the candidates those in the nearest domain that has room for all parts; all if none has."""
        cdef int32_t nearness, at, domain, level, kept
        cdef int32_t best
        cdef int32_t *counts
        cdef int32_t least = self.split.total - 1
        for nearness in range(NEARNESS):
            memset(
                self.domain_counts, 0,
                <size_t>(LEVELS * <int64_t>(self.cluster.domain_most + 1)) * sizeof(int32_t),
            )
            for at in range(total):
                domain = self.cluster.nodes[self.candidates[at].node].domain[nearness]
                for level in range(self.candidates[at].level, self.split.total if domain >= 0 else 0):
                    self.domain_counts[domain * <int64_t>LEVELS + level] += 1
            best = -1
            for domain in range(self.cluster.domain_most + 1):
                counts = self.domain_counts + domain * <int64_t>LEVELS
                for level in range(self.split.total):
                    if counts[level] < self.split.levels[level].enough:
                        break
                else:
                    if best < 0 or counts[least] < self.domain_counts[best * <int64_t>LEVELS + least]:
                        best = domain
            if best < 0:
                continue
            kept = 0
            for at in range(total):
                if self.cluster.nodes[self.candidates[at].node].domain[nearness] == best:
                    self.candidates[kept] = self.candidates[at]
                    kept += 1
            return kept
        return total

    cdef int64_t assign(self, int32_t total) noexcept:
        """Gives each part, the largest first, the first candidate not used yet that fits it."""
        cdef int32_t level, at, part
        cdef int64_t tightest = NEVER
        self.found_total = 0
        for level in range(self.split.total):
            part = 0
            for at in range(total):
                if part == self.split.levels[level].count:
                    break
                if self.candidates[at].node < 0 or self.candidates[at].level > level:
                    continue
                self.found[self.found_total] = self.candidates[at].node
                self.found_level[self.found_total] = level
                self.found_total += 1
                tightest = min(tightest, self.candidates[at].free)
                self.candidates[at].node = -1
                part += 1
        return max(tightest, 0)

    cdef bint earliest_gang(self) noexcept:
        cdef int32_t at
        cdef int32_t best_kind = NO_KIND
        cdef int64_t start
        cdef int64_t best = NEVER
        for at in range(self.wanted_total):
            start = self.gang_start(self.wanted[at], best)
            if 0 <= start < best:
                best, best_kind = start, self.wanted[at]
        if best == NEVER:
            return False
        self.choose_gang(best_kind, best)
        return True

    cdef int64_t gang_start(self, int32_t kind, int64_t limit_us) noexcept:
        """The earliest time, up to a limit, at which all parts fit at once; -1 for none.

        No time before the one at which, node by node, enough of them could first start is possible; from
        there on the nodes are asked again, until so many can start at the very time asked about.
        """
        cdef int64_t at_us = self.now
        cdef int64_t start, enough
        cdef const int64_t *ready
        cdef int32_t level, node, bin, total
        while True:
            start = at_us
            for level in range(self.split.total):
                total = 0
                ready = self.ready_for(kind, &self.split.levels[level])
                for node in range(self.cluster.node_total):
                    if ready != NULL and ready[node] > limit_us:
                        continue
                    bin = bin_of(&self.cluster.nodes[node], kind)
                    if not self.can_ever(node, bin, &self.split.levels[level]):
                        continue
                    enough = self.start_on(node, bin, &self.split.levels[level], at_us, limit_us)
                    if enough >= 0:
                        self.starts[total] = enough
                        total += 1
                if total < self.split.levels[level].enough:
                    return -1
                start = max(start, smallest(self.starts, total, self.split.levels[level].enough - 1))
            if start == at_us:
                return start
            at_us = start

    # ---------------------------------------------------------------------------------------- the details

    cdef int pick_slots(self) except -1:
        """The devices of every part found."""
        cdef int64_t total = 0
        cdef int32_t part, node, count
        for part in range(self.found_total):
            total += self.split.levels[self.found_level[part]].gpus
        if total > self.slot_room:
            self.slots = <int32_t *>resized(self.slots, total, sizeof(int32_t))
            self.slot_room = <int32_t>total
        total = 0
        for part in range(self.found_total):
            node = self.found[part]
            count = self.split.levels[self.found_level[part]].gpus
            if count:
                self.choose_devices(
                    node, bin_of(&self.cluster.nodes[node], self.found_kind), count, self.slots + total
                )
            total += count
            self.slot_ends[part] = <int32_t>total
        return 0

    def survey(self, int request, int64_t duration_us, avoid=()):
        cdef int64_t counts[VERDICT_TOTAL]
        cdef int32_t node
        self.ask(request, duration_us, avoid, None, ())
        if self.split.nodes == 0:
            split_parts(self.request, max(self.request.nodes, 1), &self.split)
        memset(counts, 0, sizeof(counts))
        for node in range(self.cluster.node_total):
            if self.cluster.nodes[node].state != GONE:
                counts[self.verdict(node)] += 1
        return tuple([counts[node] for node in range(<int32_t>VERDICT_TOTAL)])

    def offer(self, int request, bint empty=False):
        cdef const Node *node
        cdef int32_t at, bin
        cdef int64_t here
        cdef int64_t nodes = 0
        cdef int64_t total = 0
        cdef int64_t most = 0
        self.ask(request, 1, (), None, ())
        for at in range(self.cluster.node_total):
            node = &self.cluster.nodes[at]
            if node.state == GONE or (node.state != READY and not empty) or not has_labels(node, self.request):
                continue
            if not empty and self.free_seats(at) < self.request.seats:
                continue
            nodes += 1
            here = 0
            if self.request.gpus == 0:
                here = node.cores if empty else max(self.free_cores(at), 0)
            for bin in range(node.bin_total if self.request.gpus else 0):
                if wants_kind(self.request, &self.cluster.kinds[node.bins[bin].kind]):
                    here += node.bins[bin].total if empty else max(self.free_devices(at, bin), 0)
            total += here
            most = max(most, here)
        return nodes, total, most

    cdef int verdict(self, int32_t node) noexcept:
        """Why the largest part does not fit on the node now, by the kind that gets furthest."""
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef int furthest = LACKS_KIND
        cdef int verdict
        cdef int32_t bin
        if asked.state != READY or among(node, self.avoid, self.avoid_total):
            return IS_CLOSED
        if not has_labels(asked, self.request):
            return LACKS_LABELS
        if self.request.gpus == 0:
            return self.verdict_of(node, NO_BIN)
        for bin in range(asked.bin_total):
            if wants_kind(self.request, &self.cluster.kinds[asked.bins[bin].kind]):
                verdict = self.verdict_of(node, bin)
                if verdict == FITS:
                    return FITS
                furthest = max(furthest, verdict)
        return furthest

    cdef int verdict_of(self, int32_t node, int32_t bin) noexcept:
        cdef const Level *part = &self.split.levels[0]
        cdef const Node *asked = &self.cluster.nodes[node]
        cdef const Over *over = self.over[node]
        cdef int64_t seats = asked.free_seats
        cdef int64_t cores = asked.free_cores
        cdef int64_t memory = asked.free_memory
        cdef int64_t gpus = asked.bins[bin].free if bin != NO_BIN else 0
        cdef int32_t at
        if not holds_part(asked, bin, part):
            return IS_SMALL
        if over != NULL:
            for at in range(over.changes.total):
                if over.changes.items[at].at_us <= self.now:
                    apply(&seats, &cores, &memory, &gpus, &over.changes.items[at], bin)
        if seats < part.seats:
            return IS_SHARED
        if part.gpus and gpus < part.gpus:
            return LACKS_DEVICES
        if part.cores and cores < part.cores:
            return LACKS_CORES
        if part.memory and memory < part.memory:
            return LACKS_MEMORY
        return FITS if self.fits_now(node, bin, part) else IS_RESERVED


# --------------------------------------------------------------------------------- groups of devices

cdef int32_t group_size(const Node *node, int32_t grouping, const int32_t *slots, int32_t total,
                        int32_t number) noexcept nogil:
    cdef int32_t at
    cdef int32_t size = 0
    for at in range(total):
        size += node.devices[slots[at]].group[grouping] == number
    return size


cdef int32_t next_group(const Node *node, int32_t grouping, const int32_t *slots, int32_t total,
                        int32_t need) noexcept nogil:
    """The smallest group that has enough; else the largest. The one with the lowest slot of equals."""
    cdef int32_t at, size
    cdef int32_t fitting = -1
    cdef int32_t fitting_size = 0
    cdef int32_t largest = -1
    cdef int32_t largest_size = 0
    for at in range(total):
        size = group_size(node, grouping, slots, total, node.devices[slots[at]].group[grouping])
        if size >= need and (fitting < 0 or size < fitting_size):
            fitting, fitting_size = node.devices[slots[at]].group[grouping], size
        if size > largest_size:
            largest, largest_size = node.devices[slots[at]].group[grouping], size
    return fitting if fitting >= 0 else largest


cdef int32_t copy_group(const Node *node, int32_t grouping, const int32_t *slots, int32_t total,
                        int32_t number, int32_t *group) noexcept nogil:
    """Copies those of a group, to where the slots are as well; gives how many they are."""
    cdef int32_t at
    cdef int32_t inside = 0
    for at in range(total):
        if node.devices[slots[at]].group[grouping] == number:
            group[inside] = slots[at]
            inside += 1
    return inside


cdef int32_t without_group(const Node *node, int32_t grouping, int32_t *slots, int32_t total,
                           int32_t number) noexcept nogil:
    cdef int32_t at
    cdef int32_t kept = 0
    for at in range(total):
        if node.devices[slots[at]].group[grouping] != number:
            slots[kept] = slots[at]
            kept += 1
    return kept


cdef int64_t spread_of(const Node *node, const int32_t *slots, int32_t total) noexcept nogil:
    """In how many link groups, NUMA nodes and PCIe roots the devices are, in this order of weight."""
    cdef int64_t spread = 0
    cdef int32_t grouping, at, before, different
    for grouping in range(GROUPINGS):
        different = 0
        for at in range(total):
            for before in range(at):
                if node.devices[slots[before]].group[grouping] == node.devices[slots[at]].group[grouping]:
                    break
            else:
                different += 1
        spread = (spread << 20) + different
    return spread


cdef void sort_slots(int32_t *slots, int32_t total) noexcept nogil:
    """In place; almost sorted already."""
    cdef int32_t at, below, slot
    for at in range(1, total):
        slot = slots[at]
        below = at
        while below > 0 and slots[below - 1] > slot:
            slots[below] = slots[below - 1]
            below -= 1
        slots[below] = slot

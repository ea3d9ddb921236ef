"""Which devices, and when: the header. Bodies: ``_placement.pyx``; the Python face: ``_placement.pyi``.

A node is what it has, what is free of it now, and two lists by time: when what is held comes back, and when it
is booked. A plan lays its own changes over the nodes it touches and leaves the others alone. What a node has
free at a later time is found by walking these lists from now on.

For every kind of device there is a byte a node with its free devices, so that the nodes with just as many free
as are needed are found by a scan for that byte.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t


cdef enum:
    GONE = 0            # states of a node; LOST, CORDONED and OPEN to Python
    CLOSED = 1
    READY = 2
    SEATS = 1073741824  # of a node; an exclusive job and a booking take all of them
    LEVELS = 4          # different part sizes of a gang: one more than there are remainders
    NEARNESS = 4        # domains a node can be in
    GROUPINGS = 3       # link group, NUMA node, PCIe root
    BUCKETS = 256       # free devices of a kind on a node; the last is for all that many and more
    READY_ROWS = 8      # how many devices are looked ahead for
    TRIED = 32
    SPLITS = 64
    NO_KIND = -1        # of a request without devices
    NO_BIN = -1         # of a node without devices of the kind
    RESERVED = -1

cdef enum Verdict:
    FITS = 0
    IS_CLOSED = 1
    LACKS_LABELS = 2
    LACKS_KIND = 3
    IS_SMALL = 4
    IS_SHARED = 5
    LACKS_DEVICES = 6
    LACKS_CORES = 7
    LACKS_MEMORY = 8
    IS_RESERVED = 9
    VERDICT_TOTAL = 10


cdef struct Device:
    int64_t holder      # number of the job; 0 for none
    int32_t bin
    int32_t usable
    int32_t group[GROUPINGS]    # -1 for none

cdef struct Bin:        # the devices of one kind on one node
    int32_t kind
    int32_t total       # usable
    int32_t free        # usable and not held
    int64_t spread      # of all usable ones, as spread_of
    int32_t flat        # no device is in any group
    int32_t groupings   # groupings that divide it, the one with the smallest groups first
    int32_t grouping[GROUPINGS]

cdef struct Hold:       # what one job has here; one more for every further kind of device
    int64_t end_us
    int64_t number
    int64_t cores
    int64_t memory
    int64_t seats
    int32_t bin
    int32_t gpus        # usable devices that come back

cdef struct Change:     # of what is free, at a time
    int64_t at_us
    int64_t cores
    int64_t memory
    int64_t seats
    int64_t booking     # its number; of a plan's own change 0, of what it reserved RESERVED
    int32_t bin
    int32_t gpus

cdef struct Changes:
    Change *items       # by at_us; of equal ones the earlier made first
    int32_t total
    int32_t room

cdef struct Node:
    int32_t state
    int32_t device_total
    int32_t bin_total
    int32_t hold_total
    int32_t hold_room
    int32_t label_total
    int32_t domain[NEARNESS]
    int64_t cores
    int64_t memory
    int64_t free_cores
    int64_t free_memory
    int64_t free_seats  # bookings are not taken off
    Device *devices
    Bin *bins
    Hold *holds         # by end_us, then number
    Changes booked
    int32_t *labels

cdef struct Kind:
    int64_t memory
    int32_t gpu_type
    int32_t *tally      # nodes by bucket
    uint8_t *free       # bucket by node; 0 on one that is not open
    int64_t *ready[READY_ROWS]  # by devices wanted, less one, and node: when as many are free, by what is
                                # held alone; 0 for now, NEVER for an open node without, or one not open

cdef struct Request:
    int64_t cores
    int64_t memory
    int64_t gpu_memory
    int64_t seats       # a part takes
    int32_t gpus
    int32_t gpu_type
    int32_t nodes
    int32_t label_total
    int32_t *labels
    int32_t split       # nodes_for without avoid; -1 when it is not known
    uint64_t split_at   # of `Cluster.capacity`

cdef struct Level:      # parts of one size
    int64_t cores
    int64_t memory
    int64_t seats
    int32_t gpus
    int32_t count       # such parts
    int32_t enough      # such and larger parts

cdef struct Split:
    Level levels[LEVELS]
    int32_t total
    int32_t nodes

cdef struct Candidate:  # a node where a part fits
    int64_t free        # devices of the kind, or of any when none is asked for
    int64_t cores       # free; 0 when devices are asked for
    int32_t node
    int32_t level       # the largest part that fits

cdef struct Best:       # the single node chosen so far
    int64_t free
    int64_t cores
    int64_t spread      # link groups, NUMA nodes, PCIe roots
    int32_t node
    int32_t kind
    int32_t tried       # nodes of this tightness

cdef struct Over:       # a plan's changes of one node
    Changes changes
    uint8_t *taken      # by slot; NULL while no device is

cdef class Cluster:
    cdef Node *nodes
    cdef int32_t node_total
    cdef int32_t node_room
    cdef Kind *kinds
    cdef int32_t kind_total
    cdef int32_t kind_room
    cdef Request *requests
    cdef int32_t request_total
    cdef int32_t request_room
    cdef int32_t device_most    # on one node
    cdef int32_t domain_most    # the largest domain number
    cdef uint64_t version       # of everything a plan reads
    cdef uint64_t capacity      # version of what there would be if nothing ran

    cdef Node *node_at(self, int node) except NULL
    cdef Request *request_at(self, int request) except NULL
    cdef int32_t *nodes_of(self, nodes) except NULL
    cdef int reserve_node(self) except -1
    cdef int read_devices(self, Node *made, devices) except -1
    cdef void refresh(self, int32_t node) noexcept
    cdef void foresee(self, int32_t index) noexcept
    cdef void recount(self, Node *node) noexcept
    cdef void forget(self, int32_t index) noexcept
    cdef int hold_devices(self, int node, int64_t number, const int32_t *slots, int32_t total) except -1
    cdef void add_hold(self, Node *node, const Hold *hold) noexcept
    cdef void sort_hold(self, Node *node, int32_t at) noexcept
    cdef int load_node(self, int32_t index, dump) except -1
    cdef int32_t split_of(self, Request *request) noexcept
    cdef int64_t most_on_one(self, const Request *request, const int32_t *avoid, int32_t avoid_total) noexcept
    cdef int32_t split_over(self, const Request *request, const int32_t *avoid, int32_t avoid_total) noexcept
    cdef bint holds_empty(self, const Request *request, const Split *split, const int32_t *avoid,
                          int32_t avoid_total) noexcept
    cdef bint kind_holds_empty(self, const Request *request, const Split *split, int32_t kind,
                               const int32_t *avoid, int32_t avoid_total) noexcept


cdef class Plan:
    cdef Cluster cluster
    cdef uint64_t version       # of the cluster when the plan began
    cdef int64_t now
    cdef Over **over            # by node; NULL while untouched
    cdef int32_t *touched
    cdef int32_t touched_total
    cdef int32_t kinds
    cdef uint8_t **free         # by kind: buckets of its own; NULL while they are the cluster's
    cdef int32_t **tally

    # The question being asked.
    cdef Request imagined       # its own
    cdef Request *request
    cdef int64_t duration
    cdef Split split
    cdef int32_t *wanted        # kinds that will do, the smallest first
    cdef int32_t wanted_total
    cdef int32_t *avoid
    cdef int32_t avoid_total
    cdef int32_t *only          # in growing order, each once; NULL for all nodes
    cdef int32_t only_total     # of all nodes, then
    cdef int64_t *gone
    cdef int32_t gone_total
    cdef bint over_reserved     # what is reserved does not count

    # Its answer, by part.
    cdef int found_by           # PLACED, PLANNED or FITTED: there is something to take, reserve or claim
    cdef int32_t *found         # nodes
    cdef int32_t *found_level
    cdef int32_t found_total
    cdef int32_t found_kind
    cdef int64_t found_start
    cdef int32_t *slots         # part after part
    cdef int32_t slot_room
    cdef int32_t *slot_ends     # by part: where its slots end

    # Room to work in.
    cdef Candidate *candidates
    cdef int64_t *starts
    cdef int32_t *scratch       # devices of a node: the free ones, and of each grouping those of a group
    cdef int32_t *tried         # devices that it would give; scratch's last row
    cdef int32_t *domain_counts

    cdef int open(self, Cluster cluster, int64_t now_us) except -1
    cdef int check(self) except -1
    cdef Request *request_at(self, int request) except NULL
    cdef int ask(self, int request, int64_t duration_us, avoid, only, gone) except -1
    cdef void want_kinds(self) noexcept
    cdef bint find_now(self, bint over_reserved) noexcept
    cdef int pick_slots(self) except -1
    cdef tuple found_nodes(self)

    # What it changes.
    cdef Over *over_of(self, int32_t node) except NULL
    cdef int make_taken(self, int32_t node) except -1
    cdef int keep(self, int64_t booking) except -1
    cdef void change(self, int32_t part, int64_t booking) noexcept
    cdef bint counts(self, const Change *change) noexcept
    cdef void rebucket(self, int32_t node) noexcept
    cdef int own_buckets(self, int32_t kind) except -1
    cdef const uint8_t *buckets(self, int32_t kind) noexcept
    cdef const int32_t *tallies(self, int32_t kind) noexcept

    # What is free, and when.
    cdef int64_t free_devices(self, int32_t node, int32_t bin) noexcept
    cdef int64_t tight_devices(self, int32_t node, int32_t bin) noexcept
    cdef int64_t tight_cores(self, int32_t node, int32_t bin) noexcept
    cdef int64_t free_any(self, int32_t node) noexcept
    cdef int64_t free_seats(self, int32_t node) noexcept
    cdef int64_t free_cores(self, int32_t node) noexcept
    cdef int64_t next_start(self, int32_t node, int32_t bin, const Level *part, int64_t from_us,
                            int64_t limit_us) noexcept
    cdef bint is_gone(self, int64_t number) noexcept
    cdef bint has_begun(self, const Change *booked) noexcept
    cdef const int64_t *ready_for(self, int32_t kind, const Level *part) noexcept
    cdef int64_t start_on(self, int32_t node, int32_t bin, const Level *part, int64_t from_us,
                          int64_t limit_us) noexcept
    cdef bint fits_now(self, int32_t node, int32_t bin, const Level *part) noexcept
    cdef bint fits_at(self, int32_t node, int32_t bin, const Level *part, int64_t at_us) noexcept
    cdef bint may_use(self, int32_t node) noexcept
    cdef bint can_ever(self, int32_t node, int32_t bin, const Level *part) noexcept
    cdef int verdict(self, int32_t node) noexcept
    cdef int verdict_of(self, int32_t node, int32_t bin) noexcept

    # Which devices of a node.
    cdef bint slot_is_free(self, const Node *node, const Over *over, int32_t slot) noexcept
    cdef void choose_devices(self, int32_t node, int32_t bin, int32_t count, int32_t *chosen) noexcept
    cdef void fill(self, const Node *node, const Bin *bin, int32_t *slots, int32_t total, int32_t need,
                   int32_t depth, int32_t *chosen) noexcept

    # A single node.
    cdef void consider(self, Best *best, int32_t node, int32_t kind) noexcept
    cdef void search(self, Best *best, int32_t kind) noexcept
    cdef void search_buckets(self, Best *best, int32_t kind) noexcept
    cdef void search_all(self, Best *best, int32_t kind) noexcept
    cdef bint place_one(self) noexcept
    cdef void answer_one(self, int32_t node, int32_t kind, int64_t start_us) noexcept
    cdef bint earliest_one(self) noexcept
    cdef void consider_later(self, Best *best, int32_t node, int32_t kind) noexcept

    # A gang.
    cdef bint are_enough(self, int32_t kind) noexcept
    cdef bint place_gang(self) noexcept
    cdef int64_t choose_gang(self, int32_t kind, int64_t at_us) noexcept
    cdef int32_t gather(self, int32_t kind, int64_t at_us) noexcept
    cdef int32_t keep_near(self, int32_t total) noexcept
    cdef int64_t assign(self, int32_t total) noexcept
    cdef bint earliest_gang(self) noexcept
    cdef int64_t gang_start(self, int32_t kind, int64_t limit_us) noexcept

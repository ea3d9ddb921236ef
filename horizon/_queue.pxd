"""The waiting jobs and the share tree: the header. Bodies: ``_queue.pyx``; the Python face: ``_queue.pyi``.

Three things are kept here, each where it is found without a search:

* a **job** in a page, by its number: directory, page, place are the high, middle and low bits of the number;
* a **lane** for every share and priority: at a leaf the line of its jobs, above it two heaps of children;
* a **share** with what it has used and holds, and its score as of one moment, by which the heaps are ordered.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint64_t


cdef enum:
    ROOT = 0            # the share above all others
    PRIORITIES = 4      # 0 Low ... 3 Urgent
    NUMBER_BITS = 40    # a job's number is 1 ... 2^40 - 1
    PAGE_BITS = 8       # 256 jobs a page (6 KiB)
    PAGE_JOBS = 256
    DIRECTORY_BITS = 12 # 4,096 pages a directory (40 KiB, a million numbers)
    DIRECTORY_PAGES = 4096
    FRAME_HALF_LIVES = 32   # the landmark moves by this many half-lives at a time
    MIDDLE = 0x40000000 # bit of Job.shape: the job is in the lane's treap and not in its line
    SHAPES_MAX = 0x10000000
    SHARES_MAX = 0x10000000
    WEIGHT_MAX = 1000000
    NOWHERE = -1        # a slot or a place in a list that is not taken

cdef enum HeapKind:
    RANKED = 0          # children by (score, oldest): whose turn it is
    AGED = 1            # children by oldest alone: how old the parent's oldest is, for ties one level up


cdef struct Job:        # 24 bytes
    int64_t prev        # in the line: the next older number; in the treap: the left child; 0 for none
    int64_t next        # in the line: the next younger number; in the treap: the right child; 0 for none
    int32_t lane        # 1 + share * PRIORITIES + priority; 0: no such job waits
    int32_t shape       # and MIDDLE

cdef struct Page:
    Job jobs[PAGE_JOBS]

cdef struct Directory:
    int64_t used        # pages in it; freed at 0
    Page *pages[DIRECTORY_PAGES]
    int16_t jobs_in[DIRECTORY_PAGES]    # jobs waiting in each page, freed at 0; here, as it is in cache

cdef struct Entry:      # of a heap; the keys are copied in, so that a comparison reads no other memory
    double score        # 0.0 in an AGED heap
    int64_t oldest      # no two are equal: a number is in one lane only
    int32_t share

cdef struct Lane:       # the waiting jobs of one priority below one share
    int64_t oldest      # smallest number; 0 when empty; not kept at the root while it has children
    int64_t waiting
    int64_t first       # leaf: ends of the line, a list in order of number; 0 when empty
    int64_t last
    int64_t middle      # leaf: root of the treap of jobs that came back to a place inside the line
    Entry *heap[2]      # inner: by HeapKind, `active` entries each; room for every child
    int32_t active      # inner: children with such jobs
    int32_t slot[2]     # own place in the parent's heaps; NOWHERE when empty

cdef struct Share:
    int64_t rate        # cost units per second held now by it and all below
    double usage        # cost units x seconds, as of `since_us`, inflated to the landmark
    int64_t since_us    # what was held is charged up to here
    int32_t parent
    int32_t weight      # 1 ... WEIGHT_MAX
    int32_t children
    int32_t room        # children its heaps have room for
    int32_t held_at     # place in the list of holders; NOWHERE when rate is 0
    int32_t stale       # bit per priority: in that tier's list of stale shares

cdef struct Shape:
    int64_t rate        # cost units per second of one job of this shape
    int64_t waiting

cdef struct Tier:       # one priority, as the heap functions see it; the queue has four, a walk makes its own
    Share *shares
    double *scores      # by share; inflated, as of one moment
    Lane *lanes         # by share
    int32_t *stale      # shares whose entry in this tier's heaps has an outdated score, each once
    int32_t stale_total

cdef struct Moment:     # an instant with what is needed to score at it
    int64_t us
    int64_t landmark_us # inflation is 1 here
    double inflation    # 2 ^ ((us - landmark_us) / half-life)

cdef struct Cursor:     # where a walk is in a leaf's lane: the next numbers it has not passed; 0 at the end
    int64_t line
    int64_t middle


cdef class JobQueue:
    cdef Directory **top        # by number >> (PAGE_BITS + DIRECTORY_BITS)
    cdef int64_t top_room
    cdef Page *spare_page       # the last one emptied: a queue that hovers about empty allocates nothing
    cdef Directory *spare_directory
    cdef int64_t pages          # allocated now, the spares included
    cdef int64_t directories

    cdef Share *shares
    cdef double *scores         # by share, as of `instant`
    cdef int32_t *holders       # shares with rate > 0, in no order
    cdef Tier tiers[PRIORITIES]
    cdef int32_t share_room
    cdef int32_t share_total
    cdef int32_t holder_total

    cdef Shape *shapes
    cdef int32_t shape_room
    cdef int32_t shape_total

    cdef int64_t half_life_us
    cdef int64_t charge_ahead_us
    cdef int64_t frame_us       # FRAME_HALF_LIVES half-lives: landmarks are its multiples
    cdef double tau_s           # half-life / ln 2: the integral of one half-life's decay
    cdef double ahead_s         # charge ahead
    cdef Moment instant         # the last settle; every score is as of it
    cdef uint64_t version       # of everything a walk copies or reads

    # Jobs: pages, and the line and treap of a leaf.
    cdef Job *find(self, int64_t number) noexcept
    cdef Job *claim(self, int64_t number) except NULL
    cdef Directory *page_for(self, int64_t number) except NULL
    cdef Directory *directory_for(self, int64_t index) except NULL
    cdef int grow_top(self, int64_t index) except -1
    cdef void vacate(self, int64_t number, Job *job) noexcept
    cdef void drop_page(self, int64_t number) noexcept
    cdef bint fits(self, int64_t number, int priority, int share, int shape) noexcept
    cdef int refuse(self, int64_t number, int priority, int share, int shape) except -1
    cdef void attach(self, int64_t number, Job *job) noexcept
    cdef void detach(self, int64_t number, Job *job) noexcept
    cdef Tier *front_tier(self) noexcept
    cdef int64_t take_front(self) except -1
    cdef int claim_many(self, const int64_t[::1] numbers, const int8_t[::1] priorities,
                        const int32_t[::1] shares, const int32_t[::1] shapes) except -1

    # Shares: memory, charges and scores.
    cdef int check_share(self, int share) except -1
    cdef int check_shape(self, int shape) except -1
    cdef int check_rate(self, int share, int64_t change) except -1
    cdef int reserve_share(self) except -1
    cdef int reserve_heaps(self, int32_t parent) except -1
    cdef void append_share(self, int32_t parent, int32_t weight) noexcept
    cdef Moment moment(self, int64_t now_us) noexcept
    cdef double settled(self, int32_t share, const Moment *at) noexcept
    cdef double score_of(self, int32_t share, double settled, int64_t rate, const Moment *at) noexcept
    cdef void rebase(self, int64_t now_us) noexcept
    cdef void rescore(self, int32_t share) noexcept
    cdef void rescore_all(self) noexcept
    cdef void refresh(self, int priority) noexcept
    cdef void change_rate(self, int32_t share, int64_t change, const Moment *at) noexcept
    cdef void note_holder(self, int32_t share) noexcept
    cdef Walk new_walk(self, int64_t now_us, bint fifo)
    cdef void decay_by(self, int64_t half_life_us, int64_t charge_ahead_us) noexcept
    cdef void free_jobs(self) noexcept

    # Snapshots: columns of shares, shapes and waiting jobs.
    cdef tuple dump_shares(self)
    cdef bytes dump_shapes(self)
    cdef tuple dump_jobs(self)
    cdef int load_shares(self, const int32_t[::1] parents, const int32_t[::1] weights, const int64_t[::1] rates,
                         const double[::1] usages, const int64_t[::1] since) except -1


cdef class Walk:
    cdef readonly int64_t examined
    cdef JobQueue queue
    cdef uint64_t version       # of the queue when the walk began
    cdef Moment at
    cdef bint fifo              # by age alone inside a priority
    cdef int priority           # the one being walked; falls to -1
    cdef Tier tier
    cdef Cursor *cursors        # by share
    cdef double *settled        # by share: usage up to `at`
    cdef int64_t *taken         # by share: rate added by take()
    cdef int64_t *left          # by shape: waiting and not passed
    cdef char *blocked          # by shape
    cdef int64_t left_open      # sum of `left` over shapes not blocked
    cdef Entry *arena           # the copied heaps of one priority
    cdef int32_t *frontier      # the copied shares of one priority, parents first
    cdef int64_t last           # the job take() would take; 0 for none
    cdef int32_t last_share
    cdef int32_t last_shape

    cdef int check(self) except -1
    cdef int open(self, JobQueue queue, int64_t now_us) except -1
    cdef void open_tier(self) noexcept
    cdef int64_t copy_heap(self, int32_t share, int64_t used) noexcept
    cdef void place_cursor(self, int32_t share) noexcept
    cdef void pass_one(self, int32_t share, Job *job) noexcept
    cdef int64_t pass_blocked(self, int32_t share) noexcept
    cdef int64_t step(self) noexcept
    cdef int charge_last(self, int64_t rate) except -1

//! The classic design that the compiled queue is measured against: four `VecDeque`s, one a priority, of jobs that
//! own their strings and are named by a random 128-bit id (version 4 of RFC 9562).
//!
//!     rustc -O -o classic classic.rs && ./classic [waiting ...]
//!
//! Prints one JSON object, {question: nanoseconds per operation}, each the best of several rounds, and a checksum of
//! what was dequeued. Only the standard library is used.
//!
//! What a job costs depends most on where its id comes from, so there are two: a generator in the process, which
//! favours this reference, and 16 bytes from the system for each id ("id from the system"), which is what a UUID
//! library does that is told nothing else.

use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const PRIORITIES: usize = 4;
const ROUNDS: usize = 15;

/// Where ids come from: a small fast generator (xorshift64*), seeded, or the system.
struct Random {
    state: u64,
    system: Option<File>,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn id(&mut self) -> u128 {
        let bits = match &mut self.system {
            None => (self.next() as u128) << 64 | self.next() as u128,
            Some(system) => {
                let mut bytes = [0; 16];
                system.read_exact(&mut bytes).unwrap();
                u128::from_ne_bytes(bytes)
            }
        };
        bits & !(0xF000 << 64 | 0xC000 << 48) | (0x4000 << 64 | 0x8000 << 48)
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code)]
enum State {
    Queued,
    Running,
}

#[allow(dead_code)]
struct Resources {
    gpu_count: u32,
    gpu_type: Option<String>,
    cpu_cores: u32,
    memory_gb: f64,
}

#[allow(dead_code)]
struct Job {
    id: u128,
    user_id: String,
    name: String,
    command: String,
    working_dir: Option<String>,
    environment: Vec<(String, String)>,
    resources: Resources,
    priority: usize,
    state: State,
    created_at_us: i64,
    started_at_us: Option<i64>,
    completed_at_us: Option<i64>,
    exit_code: Option<i32>,
}

fn minimal(random: &mut Random, n: usize) -> Job {
    Job {
        id: random.id(),
        user_id: USERS[n % USERS.len()].to_string(),
        name: String::new(),
        command: "python train.py".to_string(),
        working_dir: None,
        environment: Vec::new(),
        resources: Resources { gpu_count: 1, gpu_type: None, cpu_cores: 0, memory_gb: 0.0 },
        priority: n % PRIORITIES,
        state: State::Queued,
        created_at_us: now_us(),
        started_at_us: None,
        completed_at_us: None,
        exit_code: None,
    }
}

fn full(random: &mut Random, n: usize) -> Job {
    let mut job = minimal(random, n);
    job.name = "train-resnet-50".to_string();
    job.working_dir = Some("/home/researcher/experiments".to_string());
    job.environment = vec![
        ("WANDB_MODE".to_string(), "offline".to_string()),
        ("OMP_NUM_THREADS".to_string(), "8".to_string()),
    ];
    job.resources =
        Resources { gpu_count: 8, gpu_type: Some("H100".to_string()), cpu_cores: 64, memory_gb: 512.0 };
    job
}

const USERS: [&str; 8] = ["ann", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];

#[derive(Default)]
struct Queue {
    lanes: [VecDeque<Job>; PRIORITIES],
}

impl Queue {
    fn enqueue(&mut self, job: Job) {
        self.lanes[job.priority].push_back(job);
    }

    fn dequeue(&mut self) -> Option<Job> {
        self.lanes.iter_mut().rev().find_map(|lane| lane.pop_front())
    }

    /// By id, so by looking at one job after the other: this design knows no better.
    fn remove(&mut self, id: u128) -> Option<Job> {
        for lane in &mut self.lanes {
            if let Some(at) = lane.iter().position(|job| job.id == id) {
                return lane.remove(at);
            }
        }
        None
    }

    fn filled(random: &mut Random, waiting: usize) -> (Queue, Vec<u128>) {
        let mut queue = Queue::default();
        let mut ids = Vec::with_capacity(waiting);
        for n in 0..waiting {
            let job = minimal(random, n);
            ids.push(job.id);
            queue.enqueue(job);
        }
        (queue, ids)
    }
}

/// The best time of `round`, in nanoseconds per operation; `round` returns what it timed and how many.
fn best(rounds: usize, mut round: impl FnMut() -> (u128, usize)) -> f64 {
    (0..rounds)
        .map(|_| {
            let (spent, operations) = round();
            spent as f64 / operations as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn built(random: &mut Random, build: fn(&mut Random, usize) -> Job) -> f64 {
    best(ROUNDS, || {
        let mut jobs = Vec::with_capacity(10_000);
        let start = Instant::now();
        for n in 0..10_000 {
            jobs.push(build(random, n));
        }
        let spent = start.elapsed().as_nanos();
        black_box(&jobs);
        (spent, jobs.len())
    })
}

/// A job is built and enqueued, one at a time, as a submit does.
fn enqueued(random: &mut Random, waiting: usize) -> f64 {
    let (mut queue, _) = Queue::filled(random, waiting);
    best(ROUNDS, || {
        let start = Instant::now();
        for n in 0..10_000 {
            queue.enqueue(minimal(random, n));
        }
        let spent = start.elapsed().as_nanos();
        for lane in &mut queue.lanes {
            lane.truncate(lane.len() - 2_500);
        }
        (spent, 10_000)
    })
}

/// The same with the job there already: the push alone.
fn pushed(random: &mut Random, waiting: usize) -> f64 {
    let (mut queue, _) = Queue::filled(random, waiting);
    best(ROUNDS, || {
        let jobs: Vec<Job> = (0..10_000).map(|n| minimal(random, n)).collect();
        let start = Instant::now();
        for job in jobs {
            queue.enqueue(job);
        }
        let spent = start.elapsed().as_nanos();
        for lane in &mut queue.lanes {
            lane.truncate(lane.len() - 2_500);
        }
        (spent, 10_000)
    })
}

fn dequeued(random: &mut Random, waiting: usize, sum: &mut u64) -> f64 {
    let taken = (waiting / 2).min(10_000);
    let (mut queue, _) = Queue::filled(random, waiting);
    best(ROUNDS, || {
        let start = Instant::now();
        for _ in 0..taken {
            let job = queue.dequeue().unwrap();
            *sum = sum.wrapping_mul(31).wrapping_add(job.resources.gpu_count as u64 + job.priority as u64);
        }
        let spent = start.elapsed().as_nanos();
        for n in 0..taken {
            queue.enqueue(minimal(random, n));
        }
        (spent, taken)
    })
}

fn bulk(random: &mut Random) -> f64 {
    best(ROUNDS * 10, || {
        let mut queue = Queue::default();
        let start = Instant::now();
        for n in 0..1_000 {
            queue.enqueue(minimal(random, n));
        }
        let spent = start.elapsed().as_nanos();
        black_box(&queue.lanes);
        (spent, 1_000)
    })
}

fn removed(random: &mut Random, waiting: usize) -> f64 {
    let (mut queue, mut ids) = Queue::filled(random, waiting);
    let operations = (10_000_000 / waiting).clamp(5, waiting / 4);
    best(3, || {
        let chosen: Vec<u128> = (0..operations)
            .map(|_| ids.swap_remove(random.next() as usize % ids.len()))
            .collect();
        let start = Instant::now();
        for id in chosen {
            black_box(queue.remove(id).unwrap());
        }
        (start.elapsed().as_nanos(), operations)
    })
}

fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).map(|size| size.parse().unwrap()).collect();
    if sizes.is_empty() {
        sizes = vec![100, 10_000, 1_000_000];
    }
    let mut random = Random { state: 0x9E37_79B9_7F4A_7C15, system: None };
    let mut system = Random { state: 1, system: Some(File::open("/dev/urandom").unwrap()) };
    let mut sum = 0;
    let mut lines = vec![
        ("build a job: minimal".to_string(), built(&mut random, minimal)),
        ("build a job: all fields".to_string(), built(&mut random, full)),
        ("build a job: minimal, id from the system".to_string(), built(&mut system, minimal)),
        ("build a job: all fields, id from the system".to_string(), built(&mut system, full)),
        ("enqueue 1,000 jobs at once, each".to_string(), bulk(&mut random)),
        ("enqueue 1,000 jobs at once, each, id from the system".to_string(), bulk(&mut system)),
    ];
    for waiting in sizes {
        let at = format!("{} waiting", grouped(waiting));
        lines.push((format!("enqueue a job, {at}"), enqueued(&mut random, waiting)));
        lines.push((format!("enqueue a job, {at}, id from the system"), enqueued(&mut system, waiting)));
        lines.push((format!("enqueue a job already built, {at}"), pushed(&mut random, waiting)));
        lines.push((format!("dequeue a job, {at}"), dequeued(&mut random, waiting, &mut sum)));
        lines.push((format!("remove a job by its name, {at}"), removed(&mut random, waiting)));
    }
    let body: Vec<String> = lines.iter().map(|(name, ns)| format!("  \"{name}\": {ns:.1}")).collect();
    println!("{{\n{},\n  \"checksum\": {}\n}}", body.join(",\n"), sum >> 32);
}

/// 1000000 as 1,000,000.
fn grouped(n: usize) -> String {
    if n < 1_000 {
        n.to_string()
    } else {
        format!("{},{:03}", grouped(n / 1_000), n % 1_000)
    }
}

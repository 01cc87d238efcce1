//! Hit ratios of eviction policies on the same requests and with the same capacity.
//!
//! ```text
//! cargo bench --bench hit_ratio
//! CACHE_TRACES=<directory> cargo bench --bench hit_ratio      # also two recorded traces
//! ```
//!
//! Each request looks up a key and inserts it if it is missing. The capacity limits only the bytes of the values, so that bookkeeping does not
//! influence the comparison. The first quarter of a trace fills the cache and is not counted. Generated traces use a fixed seed, which is printed.
//! Hashers are fixed and one thread does all work, so that two runs print the same table.
//!
//! The recorded traces are the samples in the source archive of `libcachesim` 0.3.5 on PyPI, in the directory `src/libCacheSim/data`
//! (`pip download --no-deps --no-binary :all: libcachesim==0.3.5`, which builds its tools for minutes; then unpack). They are not included here.
//! One has a million requests to cluster 52 of Twitter's caches, which resemble the requests to a response cache. The other has the block reads
//! and writes of one virtual machine, recorded by CloudPhysics. Two in five of its requests are for a new key, the worst case for a policy.
//!
//! The last row is not a policy. It knows the counted requests in advance and keeps a fixed set of entries, those with the most hits per byte. For
//! independent requests (zipf) this is the optimum. A policy can exceed it if the popular keys change over time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    fs,
    hash::{BuildHasherDefault, DefaultHasher},
    path::Path,
    time::Instant,
};

use quick_cache::{OptionsBuilder, Weighter, sync::DefaultLifecycle};

const SEED: u64 = 0x5eed_2026;
const KEYS: u64 = 100_000;
const REQUESTS: usize = 2_000_000;
/// The ratio of the bytes of all keys to the capacity.
const CAPACITY_DIVISOR: u64 = 10;

type Fixed = BuildHasherDefault<DefaultHasher>;
type Map<V> = HashMap<u64, V, Fixed>;

fn main() {
    // `cargo bench` passes this argument. `cargo test --benches` only checks that the program starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("run: cargo bench --bench hit_ratio");
        return;
    }
    let start = Instant::now();
    let mut traces = vec![
        Trace::generated("zipf 0.8", uniform, zipf(0.8)),
        Trace::generated("zipf 0.99", uniform, zipf(0.99)),
        Trace::generated("zipf 0.99, mixed sizes", mixed, zipf(0.99)),
        Trace::generated("zipf 0.99, a third scans", uniform, scanned(0.99)),
    ];
    match std::env::var_os("CACHE_TRACES") {
        Some(directory) => traces.extend(recorded(Path::new(&directory))),
        None => println!("recorded traces: none (CACHE_TRACES names no directory)"),
    }

    println!("seed {SEED:#x}");
    for trace in &traces {
        println!(
            "{}: {} requests, {} counted, {} keys, {} bytes of capacity",
            trace.name,
            trace.requests.len(),
            trace.requests.len() - trace.warm_up(),
            trace.keys,
            trace.capacity,
        );
    }

    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    let mut row = |name: &str, ratio: &dyn Fn(&Trace) -> f64| {
        rows.push((name.to_owned(), traces.iter().map(ratio).collect()));
    };
    row("quick_cache, 1 shard", &|t| t.replay(&mut Quick::new(t, Some(1))));
    row("quick_cache, default shards", &|t| t.replay(&mut Quick::new(t, None)));
    row("quick_cache, 64 shards", &|t| t.replay(&mut Quick::new(t, Some(64))));
    row("quick_cache, ghosts 0.75", &|t| t.replay(&mut Quick::tuned(t, None, 0.75, 1.0)));
    row("quick_cache, ghosts 1", &|t| t.replay(&mut Quick::tuned(t, None, 1.0, 1.0)));
    row("quick_cache, guess 4 x", &|t| t.replay(&mut Quick::tuned(t, None, 0.5, 4.0)));
    row("quick_cache, guess 1/4", &|t| t.replay(&mut Quick::tuned(t, None, 0.5, 0.25)));
    row("moka (TinyLFU)", &|t| t.replay(&mut Moka::new(t, Bound::Bytes)));
    row("moka, bounded by entries", &|t| {
        // A number of entries equals a number of bytes only if all entries have the same size.
        if t.one_size() { t.replay(&mut Moka::new(t, Bound::Entries)) } else { f64::NAN }
    });
    row("S3-FIFO, main after 2 hits", &|t| t.replay(&mut S3Fifo::new(t, 2)));
    row("S3-FIFO, main after 1 hit", &|t| t.replay(&mut S3Fifo::new(t, 1)));
    row("LRU", &|t| t.replay(&mut Lru::new(t)));
    row("best static choice", &best_static);

    println!("\n{}", table(&traces, &rows));
    println!("default shards on this machine: {}", Quick::new(&traces[0], None).0.num_shards());
    println!("duration: {:.1} s", start.elapsed().as_secs_f32());
}

fn table(traces: &[Trace], rows: &[(String, Vec<f64>)]) -> String {
    let mut text = String::from("| hit ratio |");
    for trace in traces {
        text += &format!(" {} |", trace.name);
    }
    text += "\n|---|";
    text += &"---|".repeat(traces.len());
    for (name, ratios) in rows {
        text += &format!("\n| {name:<28} |");
        for (ratio, trace) in ratios.iter().zip(traces) {
            let ratio = if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.4}") };
            text += &format!(" {ratio:>width$} |", width = trace.name.len());
        }
    }
    text
}

// ---- Traces ----------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Request {
    key: u64,
    size: u32,
}

struct Trace {
    name: String,
    requests: Vec<Request>,
    keys: usize,
    capacity: u64,
}

impl Trace {
    /// Generates a trace. The capacity is a fraction of the bytes of the recurring keys.
    fn generated(name: &str, size: Size, mut next: impl FnMut() -> u64) -> Self {
        let requests = (0..REQUESTS).map(|_| next()).map(|key| Request { key, size: size(key) }).collect();
        let capacity = (0..KEYS).map(|key| u64::from(size(key))).sum::<u64>() / CAPACITY_DIVISOR;
        Self { name: name.to_owned(), requests, keys: KEYS as usize, capacity }
    }

    /// Reads lines of comma-separated numbers. `key` and `size` are column numbers, counted from 0.
    fn read(name: &str, path: &Path, key: usize, size: usize) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut requests = Vec::new();
        let mut sizes = Map::default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split(',').map(str::trim).collect();
            let number = |column: usize| columns.get(column)?.parse::<u64>().ok();
            let (Some(key), Some(size)) = (number(key), number(size)) else {
                continue;
            };
            let request = Request { key, size: u32::try_from(size.max(1)).ok()? };
            sizes.entry(request.key).or_insert(request.size);
            requests.push(request);
        }
        let capacity = sizes.values().map(|&size| u64::from(size)).sum::<u64>() / CAPACITY_DIVISOR;
        Some(Self { name: name.to_owned(), requests, keys: sizes.len(), capacity })
    }

    /// Returns the number of requests at the beginning that only fill the cache.
    fn warm_up(&self) -> usize {
        self.requests.len() / 4
    }

    fn mean_size(&self) -> u64 {
        self.requests.iter().map(|request| u64::from(request.size)).sum::<u64>() / self.requests.len() as u64
    }

    fn one_size(&self) -> bool {
        self.requests.iter().all(|request| request.size == self.requests[0].size)
    }

    fn replay(&self, policy: &mut impl Policy) -> f64 {
        let mut hits = 0usize;
        for (index, &request) in self.requests.iter().enumerate() {
            let hit = policy.get(request.key);
            if !hit {
                policy.insert(request);
            }
            hits += usize::from(hit && index >= self.warm_up());
        }
        hits as f64 / (self.requests.len() - self.warm_up()) as f64
    }
}

fn recorded(directory: &Path) -> Vec<Trace> {
    let known = [("twitter cluster 52", "twitter_cluster52.csv", 1, 2), ("cloudphysics", "cloudPhysicsIO.csv", 4, 3)];
    let mut found = Vec::new();
    for (name, file, key, size) in known {
        match Trace::read(name, &directory.join(file), key, size) {
            Some(trace) => found.push(trace),
            None => println!("recorded traces: {file} cannot be read"),
        }
    }
    found
}

type Size = fn(u64) -> u32;

fn uniform(_key: u64) -> u32 {
    1024
}

/// Returns a log-uniform size between 200 B and 64 KiB, independent of popularity.
fn mixed(key: u64) -> u32 {
    let (low, high) = (200f64.ln(), 65_536f64.ln());
    (low + (high - low) * fastrand::Rng::with_seed(SEED ^ key).f64()).exp() as u32
}

/// Generates key `k` in proportion to `1 / (k + 1)^exponent`.
fn zipf(exponent: f64) -> impl FnMut() -> u64 {
    let mut sum = 0.0;
    let mut upto = Vec::new();
    for rank in 1..=KEYS {
        sum += (rank as f64).powf(-exponent);
        upto.push(sum);
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    move || {
        let point = random.f64() * sum;
        upto.partition_point(|&end| end <= point) as u64
    }
}

/// Generates a zipf distribution, interrupted after every 10,000 to 30,000 requests by half as many requests for keys that occur once.
fn scanned(exponent: f64) -> impl FnMut() -> u64 {
    let mut ordinary = zipf(exponent);
    let mut random = fastrand::Rng::with_seed(SEED + 1);
    let mut fresh = KEYS..;
    let (mut regular, mut scan) = (0usize, 0usize);
    move || {
        if regular == 0 && scan == 0 {
            scan = random.usize(5_000..15_000);
            regular = 2 * scan;
        }
        if regular > 0 {
            regular -= 1;
            return ordinary();
        }
        scan -= 1;
        fresh.next().expect("another key")
    }
}

/// Returns the hit ratio of the entries with the most counted requests per byte. The last one, which fits only in part, counts in part.
fn best_static(trace: &Trace) -> f64 {
    let mut wanted: Map<(u64, u32)> = Map::default();
    for request in &trace.requests[trace.warm_up()..] {
        wanted.entry(request.key).or_insert((0, request.size)).0 += 1;
    }
    let mut wanted: Vec<_> = wanted.into_values().collect();
    wanted.sort_by(|(a_hits, a_size), (b_hits, b_size)| (b_hits * u64::from(*a_size)).cmp(&(a_hits * u64::from(*b_size))));
    let (mut hits, mut capacity) = (0.0, trace.capacity as f64);
    for (count, size) in wanted {
        let part = (capacity / f64::from(size)).min(1.0);
        hits += part * count as f64;
        capacity -= part * f64::from(size);
    }
    hits / (trace.requests.len() - trace.warm_up()) as f64
}

// ---- Policies --------------------------------------------------------------------------------------------------

trait Policy {
    fn get(&mut self, key: u64) -> bool;
    /// Inserts a key for which `get` has just returned false.
    fn insert(&mut self, request: Request);
}

/// Weighs a value, which is its own size.
#[derive(Clone)]
struct BySize;

impl Weighter<u64, u32> for BySize {
    fn weight(&self, _key: &u64, size: &u32) -> u64 {
        u64::from(*size)
    }
}

type Lifecycle = DefaultLifecycle<u64, u32>;

struct Quick(quick_cache::sync::Cache<u64, u32, BySize, Fixed, Lifecycle>);

impl Quick {
    /// Creates a cache with the defaults of the library and an exact estimate of the number of entries.
    fn new(trace: &Trace, shards: Option<usize>) -> Self {
        Self::tuned(trace, shards, 0.5, 1.0)
    }

    /// Creates a tuned cache. `ghosts` is the number of remembered evicted keys, as a fraction of the estimated entries. `guess` is the ratio of
    /// the estimate to the real number of entries.
    fn tuned(trace: &Trace, shards: Option<usize>, ghosts: f64, guess: f64) -> Self {
        let entries = (trace.capacity / trace.mean_size()) as f64;
        let mut options = OptionsBuilder::new();
        options.weight_capacity(trace.capacity).estimated_items_capacity((entries * guess) as usize).ghost_allocation(ghosts);
        if let Some(shards) = shards {
            options.shards(shards);
        }
        let options = options.build().expect("both capacities are set");
        Self(quick_cache::sync::Cache::with_options(options, BySize, Fixed::default(), Lifecycle::default()))
    }
}

impl Policy for Quick {
    fn get(&mut self, key: u64) -> bool {
        self.0.get(&key).is_some()
    }

    fn insert(&mut self, request: Request) {
        self.0.insert(request.key, request.size);
    }
}

/// The unit of the capacity. With bytes, moka sizes its frequency sketch for a quarter of the entries; with entries, for all of them.
enum Bound {
    Bytes,
    Entries,
}

struct Moka {
    cache: moka::sync::Cache<u64, u32, Fixed>,
    calls: u32,
}

impl Moka {
    fn new(trace: &Trace, bound: Bound) -> Self {
        let builder = moka::sync::Cache::builder();
        let builder = match bound {
            Bound::Bytes => builder.max_capacity(trace.capacity).weigher(|_key, size| *size),
            Bound::Entries => builder.max_capacity(trace.capacity / trace.mean_size()),
        };
        Self { cache: builder.build_with_hasher(Fixed::default()), calls: 0 }
    }

    /// Runs the maintenance after every 64 calls, before the clock triggers it, so that every run is the same.
    fn called(&mut self) {
        self.calls += 1;
        if self.calls.is_multiple_of(64) {
            self.cache.run_pending_tasks();
        }
    }
}

impl Policy for Moka {
    fn get(&mut self, key: u64) -> bool {
        self.called();
        self.cache.get(&key).is_some()
    }

    fn insert(&mut self, request: Request) {
        self.called();
        self.cache.insert(request.key, request.size);
    }
}

struct Lru {
    capacity: u64,
    used: u64,
    now: u64,
    /// The time of last use and the size of each key.
    entries: Map<(u64, u32)>,
    by_age: BTreeMap<u64, u64>,
}

impl Lru {
    fn new(trace: &Trace) -> Self {
        Self { capacity: trace.capacity, used: 0, now: 0, entries: Map::default(), by_age: BTreeMap::new() }
    }
}

impl Policy for Lru {
    fn get(&mut self, key: u64) -> bool {
        let Some((used, _)) = self.entries.get_mut(&key) else {
            return false;
        };
        self.now += 1;
        self.by_age.remove(used);
        *used = self.now;
        self.by_age.insert(self.now, key);
        true
    }

    fn insert(&mut self, Request { key, size }: Request) {
        if u64::from(size) > self.capacity {
            return;
        }
        while self.used + u64::from(size) > self.capacity {
            let (_, oldest) = self.by_age.pop_first().expect("an entry by age");
            let (_, size) = self.entries.remove(&oldest).expect("a resident entry");
            self.used -= u64::from(size);
        }
        self.now += 1;
        self.used += u64::from(size);
        self.entries.insert(key, (self.now, size));
        self.by_age.insert(self.now, key);
    }
}

/// S3-FIFO with three queues (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023).
///
/// New keys enter the small queue, which has a tenth of the capacity. Keys that are requested again move to the main queue. There each hit, up to
/// three, saves a key from one eviction. Keys evicted from the small queue are remembered in a ghost queue as long as the main queue, and return
/// directly to the main queue. The paper requires two hits for the move to the main queue. Many implementations require one.
struct S3Fifo {
    capacity: u64,
    threshold: u8,
    /// The hits of each resident key since its last move.
    resident: Map<u8>,
    small: Queue,
    main: Queue,
    ghosts: Queue,
    /// The current turn of each key in `ghosts`. Older turns of the key are ignored.
    current_turns: Map<u64>,
    turn: u64,
}

#[derive(Default)]
struct Queue {
    line: VecDeque<(u64, u32, u64)>,
    bytes: u64,
}

impl Queue {
    fn push(&mut self, key: u64, size: u32, turn: u64) {
        self.line.push_back((key, size, turn));
        self.bytes += u64::from(size);
    }

    fn pop(&mut self) -> Option<(u64, u32, u64)> {
        let first = self.line.pop_front()?;
        self.bytes -= u64::from(first.1);
        Some(first)
    }
}

impl S3Fifo {
    fn new(trace: &Trace, threshold: u8) -> Self {
        Self {
            capacity: trace.capacity,
            threshold,
            resident: Map::default(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: Queue::default(),
            current_turns: Map::default(),
            turn: 0,
        }
    }

    fn evict(&mut self) {
        if self.small.bytes >= self.capacity / 10 || self.main.line.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        while let Some((key, size, _)) = self.small.pop() {
            let Entry::Occupied(mut entry) = self.resident.entry(key) else { unreachable!("queued keys are resident") };
            if *entry.get() < self.threshold {
                entry.remove();
                self.remember(key, size);
                return;
            }
            *entry.get_mut() = 0;
            self.main.push(key, size, 0);
            if self.main.bytes > self.capacity - self.capacity / 10 {
                self.evict_main();
                return;
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some((key, size, _)) = self.main.pop() {
            let Entry::Occupied(mut entry) = self.resident.entry(key) else { unreachable!("queued keys are resident") };
            if *entry.get() == 0 {
                entry.remove();
                return;
            }
            *entry.get_mut() -= 1;
            self.main.push(key, size, 0);
        }
    }

    fn remember(&mut self, key: u64, size: u32) {
        self.turn += 1;
        self.ghosts.push(key, size, self.turn);
        self.current_turns.insert(key, self.turn);
        while self.ghosts.bytes > self.capacity - self.capacity / 10 {
            let Some((key, _, turn)) = self.ghosts.pop() else {
                return;
            };
            if self.current_turns.get(&key) == Some(&turn) {
                self.current_turns.remove(&key);
            }
        }
    }
}

impl Policy for S3Fifo {
    fn get(&mut self, key: u64) -> bool {
        let Some(hits) = self.resident.get_mut(&key) else {
            return false;
        };
        *hits = (*hits + 1).min(3);
        true
    }

    fn insert(&mut self, Request { key, size }: Request) {
        if u64::from(size) > self.capacity {
            return;
        }
        while self.small.bytes + self.main.bytes + u64::from(size) > self.capacity {
            self.evict();
        }
        let known = self.current_turns.remove(&key).is_some();
        if known { &mut self.main } else { &mut self.small }.push(key, size, 0);
        self.resident.insert(key, 0);
    }
}

//! The settings of a run, chosen by its seed.

use std::time::Duration;

use fastrand::Rng;
use tower_response_cache::redis::Coherence;

/// A broken rule, which the laws must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The stamp of an entry is read when it is stored.
    Restamp,
    /// The server loses pushes, and the connection stays.
    LostPushes,
    /// Entries from before a restart with older data are served.
    Trust,
    /// Processes are killed during writes without a fence, where fences are guaranteed.
    NoFences,
    /// Hits are leased where none may be stale.
    NoDelta,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All connections of a process are cut.
    Cut,
    /// One connection is cut.
    CutOne,
    /// Nothing arrives from a process, to it, or both.
    Partition,
    /// What a process sends or receives takes much longer.
    Delay,
    /// The server stops for a while.
    Pause,
    /// The server takes long for a turn of its event loop.
    Slow,
    /// The server restarts without data.
    RestartEmpty,
    /// The server restarts with the data of an earlier moment.
    RestartOlder,
    /// All keys are removed.
    Flush,
    /// Some keys are evicted.
    Evict,
    /// A process is killed, and replaced by a new one.
    Kill,
    /// The wall clock of a process, or of the machine of all processes, is set wrong.
    WallClock,
}

pub const FAULTS: [Fault; 12] = [
    Fault::Cut,
    Fault::CutOne,
    Fault::Partition,
    Fault::Delay,
    Fault::Pause,
    Fault::Slow,
    Fault::RestartEmpty,
    Fault::RestartOlder,
    Fault::Flush,
    Fault::Evict,
    Fault::Kill,
    Fault::WallClock,
];

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub processes: usize,
    /// Clients of each process.
    pub clients: usize,
    pub registers: u32,
    pub coherence: Coherence,
    pub strict: Option<Duration>,
    pub heartbeat: Duration,
    pub round_trip: Duration,
    pub command_timeout: Duration,
    pub gather: Duration,
    pub memory: usize,
    pub one_namespace: bool,
    /// Targets are remembered and responses are hot from the first request on.
    pub hot: bool,
    /// Writes, and among them those with clients that disconnect and with handlers that stop waiting for their statement, in percent.
    pub writes: u32,
    pub leaving: u32,
    pub losing: u32,
    /// The longest pause of a client, and the longest way of a message, in milliseconds.
    pub pause: u64,
    pub way: u64,
    pub faults: Vec<Fault>,
    /// Whether evicted keys may be fences.
    pub evicts_fences: bool,
    /// The time with faults.
    pub duration: Duration,
    pub broken: Option<Broken>,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Plan {
    pub fn new(random: &mut Rng, broken: Option<Broken>) -> Self {
        let coherence = match random.u32(..10) {
            0..6 => Coherence::Leased,
            6..8 => Coherence::Validated,
            _ => Coherence::Ttl(ms(random.u64(20..500))),
        };
        let (share, none) = (random.u32(1..6), random.u32(..8) == 0);
        let faults = FAULTS.into_iter().filter(|_| random.u32(..6) < share && !none).collect();
        let mut plan = Self {
            processes: random.usize(2..5),
            clients: random.usize(1..4),
            registers: random.u32(1..5),
            coherence,
            strict: (random.u32(..3) == 0).then(|| ms(random.u64(1_000..2_500))),
            heartbeat: ms(random.u64(10..100)),
            round_trip: ms(random.u64(5..60)),
            command_timeout: ms(random.u64(20..250)),
            gather: ms([0, 1, 15, 50][random.usize(..4)]),
            memory: [64 << 10, 1 << 20][random.usize(..2)],
            one_namespace: random.u32(..4) == 0,
            hot: random.bool(),
            writes: random.u32(2..30),
            leaving: [0, 10, 40][random.usize(..3)],
            losing: [0, 10, 30][random.usize(..3)],
            pause: random.u64(2..60),
            way: random.u64(1..8),
            faults,
            evicts_fences: random.bool(),
            duration: ms(random.u64(400..1_600)),
            broken,
        };
        match broken {
            Some(Broken::LostPushes) => plan.coherence = Coherence::Leased,
            Some(Broken::Trust) => plan.faults = vec![Fault::RestartOlder],
            Some(Broken::NoFences) => (plan.strict, plan.faults) = (None, vec![Fault::Kill]),
            Some(Broken::NoDelta) => plan.coherence = Coherence::Leased,
            Some(Broken::Restamp) | None => {}
        }
        plan
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

//! The operations of a simulated user: reads with a Zipf distribution, and a few writes. The same seed gives the same operations.

use axum::http::Method;
use fastrand::Rng;
use serde_json::json;

use super::seed;

// Routes as the router declares them, for the report.
pub(crate) const USER: &str = "/auth/user";
pub(crate) const TABLE: &str = "/tables/{table}";
pub(crate) const ROW: &str = "/tables/{table}/{id}";
pub(crate) const BUCKET: &str = "/storage/{bucket}";
pub(crate) const OBJECT: &str = "/storage/{bucket}/{*path}";

const CARRIERS: [&str; 16] = ["UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS", "F9", "YV", "HA", "OO"];
const ORIGINS: [&str; 3] = ["EWR", "JFK", "LGA"];

/// One request.
pub(crate) struct PlannedRequest {
    /// The pattern of the router, for the report.
    pub(crate) route: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The account whose token is sent.
    pub(crate) user: Option<usize>,
    pub(crate) body: String,
}

/// A write, and the read that must return it.
pub(crate) enum Write {
    /// Insert this flight, then read the newest flights of its carrier.
    Insert { carrier: &'static str, row: String },
    /// Change the last inserted flight.
    Update { delay: u32 },
    /// Delete the last inserted flight.
    Delete,
    /// Upload to this path, then list its folder.
    Upload { path: String, content: String },
}

pub(crate) enum Operation {
    Read(PlannedRequest),
    Write(Write),
}

/// An endless sequence of operations.
pub(crate) struct Workload {
    random: Rng,
    client: u64,
    tables: Zipf<String>,
    lists: Zipf<String>,
    users: Zipf<usize>,
}

impl Workload {
    pub(crate) fn new(client: u64) -> Self {
        // All clients prefer the same reads.
        let mut shared = Rng::with_seed(2013);
        Self {
            random: Rng::with_seed(client + 1),
            client,
            tables: Zipf::new(table_reads(), &mut shared),
            lists: Zipf::new(list_reads(), &mut shared),
            users: Zipf::new((0..seed::USERS).collect(), &mut shared),
        }
    }

    /// Returns an account with write permission, a different one for each client if there are enough.
    pub(crate) fn writer(&self) -> usize {
        (0..seed::USERS).filter(|user| seed::may_write(*user)).nth(self.client as usize).unwrap_or_default()
    }

    pub(crate) fn next(&mut self) -> Operation {
        let random = &mut self.random;
        match random.u32(..1000) {
            0..20 => Operation::Write(self.insert()),
            20..30 => Operation::Write(self.upload()),
            30..32 => Operation::Write(Write::Delete),
            32..34 => {
                let delay = random.u32(1_000..1_000_000);
                Operation::Write(Write::Update { delay })
            }
            34..250 => {
                let user = *self.users.pick(random);
                Operation::Read(read(USER, USER.into(), Some(user)))
            }
            250..420 => Operation::Read(read(BUCKET, self.lists.pick(random).clone(), None)),
            _ => Operation::Read(read(TABLE, self.tables.pick(random).clone(), None)),
        }
    }

    fn insert(&mut self) -> Write {
        let carrier = CARRIERS[self.random.usize(..CARRIERS.len())];
        let row = json!({
            "day": self.random.u8(1..=31),
            "hour": self.random.u8(6..23),
            "carrier": carrier,
            "flight": self.random.u16(1..9999),
            "origin": "JFK",
            "dest": "BOS",
            "dep_delay": self.random.i16(-10..120),
            "distance": 187,
        });
        let row = row.to_string();
        Write::Insert { carrier, row }
    }

    fn upload(&mut self) -> Write {
        let path = format!("uploads-{}/{:03}.txt", self.client, self.random.u8(..20));
        let content = format!("seen at {}", self.random.u64(..));
        Write::Upload { path, content }
    }
}

pub(crate) fn read(route: &'static str, path: String, user: Option<usize>) -> PlannedRequest {
    PlannedRequest { route, method: Method::GET, path, user, body: String::new() }
}

pub(crate) fn newest_of(carrier: &str) -> String {
    format!("/tables/flights?carrier={carrier}&sort=-id&limit=40")
}

fn table_reads() -> Vec<String> {
    let mut reads =
        vec!["/tables/airlines".into(), "/tables/flights?stats=carrier".into(), "/tables/flights?stats=dest".into()];
    for carrier in CARRIERS {
        reads.push(newest_of(carrier));
        reads.push(format!("/tables/flights?stats=day&carrier={carrier}"));
        reads.push(format!("/tables/flights?carrier={carrier}&dep_delay.min=60&sort=-dep_delay&limit=20"));
    }
    for origin in ORIGINS {
        reads.push(format!("/tables/flights?stats=hour&origin={origin}"));
        for day in 1..=31 {
            reads.push(format!("/tables/weather?origin={origin}&day={day}"));
            reads.push(format!("/tables/flights?stats=carrier&origin={origin}&day={day}"));
        }
    }
    for maker in ["BOEING", "AIRBUS", "EMBRAER", "BOMBARDIER%20INC"] {
        reads.push(format!("/tables/planes?manufacturer={maker}&sort=-seats&limit=100"));
    }
    reads
}

fn list_reads() -> Vec<String> {
    let whole = ["flights", "weather", "planes"].map(|bucket| format!("/storage/{bucket}"));
    let carriers = CARRIERS.map(|carrier| format!("/storage/flights?prefix={carrier}/"));
    let origins = ORIGINS.map(|origin| format!("/storage/weather?prefix={origin}/"));
    [whole.as_slice(), &carriers, &origins].concat()
}

/// Items of which the `n`th is picked with a weight of `1/n`.
struct Zipf<T> {
    items: Vec<T>,
    cumulative: Vec<f64>,
}

impl<T> Zipf<T> {
    fn new(mut items: Vec<T>, random: &mut Rng) -> Self {
        random.shuffle(&mut items);
        let weights = (1..=items.len()).map(|rank| 1.0 / rank as f64);
        let cumulative = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { cumulative: cumulative.collect(), items }
    }

    fn pick(&self, random: &mut Rng) -> &T {
        let at = random.f64() * self.cumulative.last().copied().unwrap_or_default();
        let index = self.cumulative.partition_point(|sum| *sum < at);
        &self.items[index.min(self.items.len() - 1)]
    }
}

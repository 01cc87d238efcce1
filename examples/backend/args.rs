//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use lexopt::{Arg, Parser};

pub(crate) use self::flags::Coherence;
use self::flags::{COHERENCE, PREFIX, SIZE, bytes, coherence, value};

#[path = "../common/flags.rs"]
mod flags;

pub(crate) const HELP: &str = "\
An application with a response cache: flights of January 2013 in SQLite or PostgreSQL, user accounts, and files on disk.

Runs the same load without and with the cache, compares the two, shows that each write is visible in the next
read, and then keeps serving. Its accounts and passwords are public, so serve it on loopback only.

Usage: cargo run --release --example backend [--features redis,postgres] -- [FLAGS]

--redis needs the feature `redis`, and --postgres the feature `postgres`. The metrics are always served at /metrics.

  --listen ADDR     address of the server; port 0 means a free port [127.0.0.1:3000, or a free port if that is in use]
  --db DIR          directory of the database and the files         [a temporary directory, removed at exit]
  --postgres URL    use a PostgreSQL database, such as postgres://user:password@localhost/flights, in place of SQLite. Sign-in
                    is by password (SCRAM-SHA-256, MD5 or plain) or trust; connections are not encrypted, so no other
                    `sslmode` than `disable` and `prefer` is accepted. Tables are created if `users` is missing. A row that is
                    changed past the cache, for example with psql, is visible in reads a few milliseconds later: for that,
                    the server needs `wal_level = logical`, and the role the attribute REPLICATION and the right to create a
                    publication  [SQLite]
  --no-listener     with --postgres, do not listen for changes past the cache
  --memory BYTES    size of the cache in memory, such as 64MiB      [64MiB]
  --redis URL       also store responses in Redis, shared by all processes with the same --db. Repeat the flag for the
                    nodes of a cluster. Start every process but one with --serve  [memory only]
  --coherence HOW   with --redis, how stale a hit in memory may be: `leased`, at most 120 ms; `validated`, never, for one
                    round trip for each hit; `ttl`, at most one second  [leased]
  --strict          with --redis, set a fence before each write, so that the write is visible even if the process crashes
                    during it. All processes with the same --prefix need the same setting
  --prefix P        with --redis, prefix of all keys  [backend- and a random number, which is stored in --db]
  --admin-token T   serve the Inspector of the cache at /_cache/ for requests with this token  [not served]
  --bypass-writes   write some rows past the cache, so that its audit finds outdated hits. With --postgres it finds
                    none, because the cache listens; with --no-listener in addition, it finds them
  --seconds N       duration of the load without the cache          [6]
  --serve           serve without the demonstration
  --demo            end after the demonstration, with exit status 0 only if every statement of it holds
  --help            print this text
";

const ALLOWED: &str = "--listen ADDR, --db DIR, --postgres URL, --no-listener, --memory BYTES, --redis URL, --coherence HOW, --strict, --prefix P, \
    --admin-token T, --bypass-writes, --seconds N, --serve, --demo, --help";

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Args {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) db: Option<PathBuf>,
    pub(crate) postgres: Option<String>,
    pub(crate) no_listener: bool,
    pub(crate) memory: usize,
    pub(crate) redis: RedisArgs,
    pub(crate) admin_token: Option<String>,
    pub(crate) bypass_writes: bool,
    pub(crate) measure: Duration,
    pub(crate) serve: bool,
    pub(crate) demo: bool,
    pub(crate) help: bool,
}

/// Flags of the store in Redis. Without a URL the store is in memory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RedisArgs {
    pub(crate) urls: Vec<String>,
    pub(crate) coherence: Option<Coherence>,
    pub(crate) strict: bool,
    pub(crate) prefix: Option<String>,
}

impl Args {
    /// Returns whether the cache listens for changes in the database.
    pub(crate) fn listens(&self) -> bool {
        self.postgres.is_some() && !self.no_listener
    }

    /// Parses the arguments after the program name.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self { memory: 64 << 20, measure: Duration::from_secs(6), ..Self::default() };
        let mut parser = Parser::from_args(arguments);
        let refused = |error: String| Err(format!("{error}; expected {ALLOWED}"));
        loop {
            let argument = match parser.next() {
                Ok(Some(argument)) => argument,
                Ok(None) => return args.validated(),
                Err(error) => return refused(error.to_string()),
            };
            match argument {
                Arg::Long("listen") => args.listen = Some(value(&mut parser, ADDRESS, |text| text.parse().ok())?),
                Arg::Long("db") => args.db = Some(value(&mut parser, DIRECTORY, |text| Some(text.into()))?),
                Arg::Long("memory") => args.memory = value(&mut parser, SIZE, bytes)?,
                Arg::Long("postgres") => {
                    args.postgres = Some(value(&mut parser, POSTGRES, |text| postgres_url(text).then(|| text.into()))?);
                }
                Arg::Long("no-listener") => args.no_listener = true,
                Arg::Long("redis") => args.redis.urls.push(value(&mut parser, URL, |text| Some(text.into()))?),
                Arg::Long("coherence") => args.redis.coherence = Some(value(&mut parser, COHERENCE, coherence)?),
                Arg::Long("strict") => args.redis.strict = true,
                Arg::Long("prefix") => args.redis.prefix = Some(value(&mut parser, PREFIX, |text| Some(text.into()))?),
                Arg::Long("admin-token") => args.admin_token = Some(value(&mut parser, TOKEN, token)?),
                Arg::Long("bypass-writes") => args.bypass_writes = true,
                Arg::Long("seconds") => args.measure = value(&mut parser, SECONDS, seconds)?,
                Arg::Long("serve") => args.serve = true,
                Arg::Long("demo") => args.demo = true,
                Arg::Long("help") | Arg::Short('h') => args.help = true,
                Arg::Long(name) => return refused(format!("unknown flag `--{name}`")),
                Arg::Short(name) => return refused(format!("unknown flag `-{name}`")),
                Arg::Value(text) => {
                    return refused(format!("unexpected argument `{}`", text.to_string_lossy()));
                }
            }
        }
    }

    /// Returns an error if flags contradict each other or need a feature that is off.
    fn validated(self) -> Result<Self, String> {
        let RedisArgs { urls, coherence, strict, prefix } = &self.redis;
        let given = [
            ("redis", !urls.is_empty()),
            ("coherence", coherence.is_some()),
            ("strict", *strict),
            ("prefix", prefix.is_some()),
        ];
        if self.help {
            return Ok(self);
        }
        if self.serve && self.demo {
            return Err("`--serve` leaves out the demonstration: leave out `--serve` or `--demo`".into());
        }
        if self.serve && self.bypass_writes {
            return Err("`--bypass-writes` belongs to the demonstration: leave out `--serve` or `--bypass-writes`".into());
        }
        if self.postgres.is_some() && !cfg!(feature = "postgres") {
            return Err("`--postgres`: built without PostgreSQL; build with `--features postgres`".into());
        }
        if self.no_listener && self.postgres.is_none() {
            return Err("`--no-listener` needs `--postgres URL`".into());
        }
        match given.iter().find(|(_, given)| *given) {
            None => Ok(self),
            Some((name, _)) if !cfg!(feature = "redis") => {
                Err(format!("`--{name}`: built without Redis; build with `--features redis`"))
            }
            Some((name, _)) if urls.is_empty() => Err(format!("`--{name}` needs `--redis URL`")),
            Some(_) => Ok(self),
        }
    }
}

const ADDRESS: &str = "`--listen` takes an address and a port, such as 127.0.0.1:3000";
const DIRECTORY: &str = "`--db` takes a directory";
const URL: &str = "`--redis` takes a URL, such as redis://127.0.0.1:6379";
const POSTGRES: &str = "`--postgres` takes a URL, such as postgres://user:password@localhost:5432/flights";
const TOKEN: &str = "`--admin-token` takes a text that is not empty";
const SECONDS: &str = "`--seconds` takes a whole number from 1 to 3600";

fn postgres_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

fn token(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds))?;
    Some(Duration::from_secs(seconds))
}

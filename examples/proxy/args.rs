//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use http::uri::{Authority, Scheme, Uri};
use lexopt::{Arg, Parser};

pub(crate) use self::flags::Coherence;
use self::flags::{COHERENCE, PREFIX, SIZE, bytes, coherence, value};

#[path = "../common/flags.rs"]
mod flags;

pub(crate) const HELP: &str = "\
A caching reverse proxy: serves responses from a cache as its rules allow, and forwards all other requests to an origin.

Usage: cargo run --release --example proxy --features config -- --listen ADDR --origin URL [FLAGS]

  --listen ADDR     address to listen on, such as 127.0.0.1:8080; port 0 means a free port
  --origin URL      the origin, such as http://127.0.0.1:3000
  --rules FILE      routes and their rules, in TOML   [HTTP caching for every route]
  --memory BYTES    size of the cache in memory, such as 64MiB   [64MiB]
  --redis URL       also store responses in Redis, shared by all proxies with the same --prefix. Repeat the flag for the nodes of a
                    cluster   [memory only]
  --coherence HOW   with --redis, how stale a hit in memory may be: `leased`, `validated`, or `ttl`, one second   [leased]
  --strict          with --redis, set a fence before each write. All proxies with the same --prefix need the same setting
  --prefix P        with --redis, prefix of all keys   [cache]
  --heartbeat MS    with --redis, interval of the heartbeats of a lease   [50]
  --fence MS        with --strict, lifetime of a fence after a crash of its proxy   [30000]
  --hold MS         with --redis, how long the response to a write waits for its invalidations   [1000]
  --help            print this text

Prints `listening on ADDR` when it is ready. Stops at SIGINT or SIGTERM.
";

const ALLOWED: &str = "--listen ADDR, --origin URL, --rules FILE, --memory BYTES, --redis URL, --coherence HOW, --strict, \
    --prefix P, --heartbeat MS, --fence MS, --hold MS, --help";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) listen: SocketAddr,
    pub(crate) origin: Authority,
    pub(crate) rules: Option<PathBuf>,
    pub(crate) memory: usize,
    pub(crate) redis: RedisArgs,
}

/// Flags of the store in Redis. Without a URL the store is in memory.
#[derive(Debug, Default)]
pub(crate) struct RedisArgs {
    pub(crate) urls: Vec<String>,
    pub(crate) coherence: Option<Coherence>,
    pub(crate) strict: bool,
    pub(crate) prefix: Option<String>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) fence: Option<Duration>,
    pub(crate) hold: Option<Duration>,
}

impl RedisArgs {
    /// Returns an error if the feature `redis` is needed and off.
    fn validated(self) -> Result<Self, String> {
        match self.urls.is_empty() || cfg!(feature = "redis") {
            true => Ok(self),
            false => Err("`--redis`: built without Redis; build with `--features config,redis`".to_owned()),
        }
    }

    /// Returns each given flag that has no effect, with the flag that it needs.
    pub(crate) fn unused(&self) -> Vec<(&'static str, &'static str)> {
        let given = [
            ("coherence", self.coherence.is_some()),
            ("strict", self.strict),
            ("prefix", self.prefix.is_some()),
            ("heartbeat", self.heartbeat.is_some()),
            ("fence", self.fence.is_some()),
            ("hold", self.hold.is_some()),
        ];
        match self.urls.is_empty() {
            true => given.into_iter().filter(|(_, given)| *given).map(|(name, _)| (name, "redis")).collect(),
            false if self.fence.is_some() && !self.strict => vec![("fence", "strict")],
            false => Vec::new(),
        }
    }
}

impl Args {
    /// Parses the arguments after the program name. Returns `None` for `--help`.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut listen, mut origin, mut rules, mut memory) = (None, None, None, 64 << 20);
        let mut redis = RedisArgs::default();
        let mut parser = Parser::from_args(arguments);
        let refused = |error: String| format!("{error}; expected {ALLOWED}");
        while let Some(argument) = parser.next().map_err(|error| refused(error.to_string()))? {
            match argument {
                Arg::Long("listen") => listen = Some(value(&mut parser, ADDRESS, |text| text.parse().ok())?),
                Arg::Long("origin") => origin = Some(value(&mut parser, URL, url)?),
                Arg::Long("rules") => rules = Some(value(&mut parser, FILE, |text| Some(text.into()))?),
                Arg::Long("memory") => memory = value(&mut parser, SIZE, bytes)?,
                Arg::Long("redis") => redis.urls.push(value(&mut parser, REDIS, |text| Some(text.into()))?),
                Arg::Long("coherence") => redis.coherence = Some(value(&mut parser, COHERENCE, coherence)?),
                Arg::Long("strict") => redis.strict = true,
                Arg::Long("prefix") => redis.prefix = Some(value(&mut parser, PREFIX, |text| Some(text.into()))?),
                Arg::Long("heartbeat") => redis.heartbeat = Some(value(&mut parser, HEARTBEAT, millis)?),
                Arg::Long("fence") => redis.fence = Some(value(&mut parser, FENCE, millis)?),
                Arg::Long("hold") => redis.hold = Some(value(&mut parser, HOLD, millis)?),
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long(name) => return Err(refused(format!("unknown flag `--{name}`"))),
                Arg::Short(name) => return Err(refused(format!("unknown flag `-{name}`"))),
                Arg::Value(text) => return Err(refused(format!("unexpected argument `{}`", text.to_string_lossy()))),
            }
        }
        let listen = listen.ok_or_else(|| format!("{ADDRESS}; the flag is missing"))?;
        let origin = origin.ok_or_else(|| format!("{URL}; the flag is missing"))?;
        Ok(Some(Self { listen, origin, rules, memory, redis: redis.validated()? }))
    }
}

const ADDRESS: &str = "`--listen` takes an address and a port, such as 127.0.0.1:8080";
const URL: &str = "`--origin` takes http://HOST or http://HOST:PORT, without a path";
const FILE: &str = "`--rules` takes a file";
const REDIS: &str = "`--redis` takes a URL, such as redis://127.0.0.1:6379";
const HEARTBEAT: &str = "`--heartbeat` takes a whole number of milliseconds";
const FENCE: &str = "`--fence` takes a whole number of milliseconds";
const HOLD: &str = "`--hold` takes a whole number of milliseconds";

fn millis(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

fn url(text: &str) -> Option<Authority> {
    let uri: Uri = text.parse().ok()?;
    let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
    let authority = uri.into_parts().authority?;
    (plain && !authority.as_str().contains('@') && !authority.host().is_empty()).then_some(authority)
}

//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use http::uri::{Authority, Scheme, Uri};
use lexopt::{Arg, Parser};

pub(crate) use self::flags::Coherence;
use self::flags::{COHERENCE, PREFIX, SIZE, bytes, coherence, value};

#[path = "../common/flags.rs"]
mod flags;

pub(crate) const HELP: &str = "\
A caching reverse proxy: forwards requests to an origin, and answers from a cache what the rules allow.

Usage: cargo run --release --example proxy --features config -- --listen ADDR --origin URL [FLAGS]

  --listen ADDR     where to serve, such as 127.0.0.1:8080; port 0 takes a free one
  --origin URL      whom to ask, such as http://127.0.0.1:3000
  --rules FILE      routes and their rules, in TOML   [without: all that HTTP lets a shared cache keep]
  --memory BYTES    room for the cache, such as 64MiB [64MiB]
  --redis URL       keep the cache in Redis as well, shared by all proxies with the same --prefix; --memory is then what each has
                    in front of it. Given several times: nodes of a cluster   [memory alone]
  --coherence HOW   with --redis, how new what memory serves must be: `leased`, `validated`, or `ttl`, a second   [leased]
  --strict          with --redis: a fence before each write; all proxies with the same --prefix must have it, or none
  --prefix P        with --redis: what all keys begin with   [cache]
  --heartbeat MS    with --redis: how often masters are asked for a sign of life   [50]
  --fence MS        with --strict: how long a fence stands after its proxy has died   [30000]
  --hold MS         with --redis: how long the answer to a write waits for its clearing   [1000]
  --help            this text

Prints `listening on ADDR` when it is ready, and ends at SIGINT or SIGTERM.
";

const ALLOWED: &str = "--listen ADDR, --origin URL, --rules FILE, --memory BYTES, --redis URL, --coherence HOW, --strict, \
    --prefix P, --heartbeat MS, --fence MS, --hold MS, --help";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) listen: SocketAddr,
    pub(crate) origin: Authority,
    pub(crate) rules: Option<PathBuf>,
    pub(crate) memory: usize,
    pub(crate) redis: Sharing,
}

/// How the cache is shared with other proxies; not at all while there is no URL.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) urls: Vec<String>,
    pub(crate) coherence: Option<Coherence>,
    pub(crate) strict: bool,
    pub(crate) prefix: Option<String>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) fence: Option<Duration>,
    pub(crate) hold: Option<Duration>,
}

impl Sharing {
    /// The same, if this program can do it.
    fn fitting(self) -> Result<Self, String> {
        match self.urls.is_empty() || cfg!(feature = "redis") {
            true => Ok(self),
            false => Err("`--redis`: this program was built without Redis; build it with `--features config,redis`".to_owned()),
        }
    }

    /// The flags that were given and have no effect, and the flag without which they have none.
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
    /// Reads the arguments that follow the program's name; `None` if they ask for help.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut listen, mut origin, mut rules, mut memory) = (None, None, None, 64 << 20);
        let mut redis = Sharing::default();
        let mut parser = Parser::from_args(arguments);
        let refused = |what: String| format!("{what}; there are: {ALLOWED}");
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
                Arg::Long(name) => return Err(refused(format!("there is no flag `--{name}`"))),
                Arg::Short(name) => return Err(refused(format!("there is no flag `-{name}`"))),
                Arg::Value(text) => return Err(refused(format!("`{}` belongs to no flag", text.to_string_lossy()))),
            }
        }
        let listen = listen.ok_or_else(|| format!("{ADDRESS}, and it is missing"))?;
        let origin = origin.ok_or_else(|| format!("{URL}, and it is missing"))?;
        Ok(Some(Self { listen, origin, rules, memory, redis: redis.fitting()? }))
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

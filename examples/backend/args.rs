//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use lexopt::{Arg, Parser};

pub(crate) use self::flags::Coherence;
use self::flags::{COHERENCE, PREFIX, SIZE, bytes, coherence, value};

#[path = "../common/flags.rs"]
mod flags;

pub(crate) const HELP: &str = "\
An application with a response cache: flights of January 2013 in SQLite, accounts, and buckets on disk.

Drives traffic against itself without and with the cache, compares the two, shows that writes are seen
at once, and then goes on serving. Its accounts and their passwords are public: keep it on loopback.

Usage: cargo run --release --example backend -- [FLAGS]

  --listen ADDR     where to serve; port 0 takes a free one   [127.0.0.1:3000, or a free port if that is taken]
  --db DIR          keep the database and the buckets here    [a new temporary directory, removed at the end]
  --memory BYTES    room for the cache, such as 64MiB         [64MiB]
  --redis URL       keep the cache in Redis as well, shared by all processes with the same --db; --memory is then what
                    each has in front of it. Given several times: nodes of a cluster. Of several processes, one at a time
                    may demonstrate; begin the others with --serve  [memory alone]
  --coherence HOW   how new what memory serves must be, with --redis: `leased`, at most 120 ms stale; `validated`, never
                    stale, by a round trip for each hit; `ttl`, at most one second stale  [leased]
  --strict          with --redis: a fence before each write, so that it shows even if the process dies in the middle of
                    it; all processes with the same --prefix must have it, or none
  --prefix P        with --redis: what all keys begin with  [backend- and a number that is kept with the database]
  --seconds N       length of the run without the cache       [6]
  --serve           no demonstration, only serve
  --help            this text
";

const ALLOWED: &str = "--listen ADDR, --db DIR, --memory BYTES, --redis URL, --coherence HOW, --strict, --prefix P, \
    --seconds N, --serve, --help";

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Args {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) db: Option<PathBuf>,
    pub(crate) memory: usize,
    pub(crate) redis: Sharing,
    pub(crate) measure: Duration,
    pub(crate) serve: bool,
    pub(crate) help: bool,
}

/// How the cache is shared with other processes; not at all while there is no URL.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sharing {
    pub(crate) urls: Vec<String>,
    pub(crate) coherence: Option<Coherence>,
    pub(crate) strict: bool,
    pub(crate) prefix: Option<String>,
}

impl Args {
    /// Reads the arguments that follow the program's name.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self { memory: 64 << 20, measure: Duration::from_secs(6), ..Self::default() };
        let mut parser = Parser::from_args(arguments);
        let refused = |what: String| Err(format!("{what}; there are: {ALLOWED}"));
        loop {
            let argument = match parser.next() {
                Ok(Some(argument)) => argument,
                Ok(None) => return args.fitting(),
                Err(error) => return refused(error.to_string()),
            };
            match argument {
                Arg::Long("listen") => args.listen = Some(value(&mut parser, ADDRESS, |text| text.parse().ok())?),
                Arg::Long("db") => args.db = Some(value(&mut parser, DIRECTORY, |text| Some(text.into()))?),
                Arg::Long("memory") => args.memory = value(&mut parser, SIZE, bytes)?,
                Arg::Long("redis") => args.redis.urls.push(value(&mut parser, URL, |text| Some(text.into()))?),
                Arg::Long("coherence") => args.redis.coherence = Some(value(&mut parser, COHERENCE, coherence)?),
                Arg::Long("strict") => args.redis.strict = true,
                Arg::Long("prefix") => args.redis.prefix = Some(value(&mut parser, PREFIX, |text| Some(text.into()))?),
                Arg::Long("seconds") => args.measure = value(&mut parser, SECONDS, seconds)?,
                Arg::Long("serve") => args.serve = true,
                Arg::Long("help") | Arg::Short('h') => args.help = true,
                Arg::Long(name) => return refused(format!("there is no flag `--{name}`")),
                Arg::Short(name) => return refused(format!("there is no flag `-{name}`")),
                Arg::Value(text) => {
                    return refused(format!("`{}` belongs to no flag", text.to_string_lossy()));
                }
            }
        }
    }

    /// The arguments, if they can go together and this program can do what they ask.
    fn fitting(self) -> Result<Self, String> {
        let Sharing { urls, coherence, strict, prefix } = &self.redis;
        let given = [
            ("redis", !urls.is_empty()),
            ("coherence", coherence.is_some()),
            ("strict", *strict),
            ("prefix", prefix.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(self),
            Some(_) if self.help => Ok(self),
            Some((name, _)) if !cfg!(feature = "redis") => {
                Err(format!("`--{name}`: this program was built without Redis; build it with `--features redis`"))
            }
            Some((name, _)) if urls.is_empty() => Err(format!("`--{name}` says how to share, and needs `--redis URL`")),
            Some(_) => Ok(self),
        }
    }
}

const ADDRESS: &str = "`--listen` takes an address and a port, such as 127.0.0.1:3000";
const DIRECTORY: &str = "`--db` takes a directory";
const URL: &str = "`--redis` takes a URL, such as redis://127.0.0.1:6379";
const SECONDS: &str = "`--seconds` takes a whole number from 1 to 3600";

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds))?;
    Some(Duration::from_secs(seconds))
}

//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use http::uri::{Authority, Scheme, Uri};
use lexopt::{Arg, Parser, ValueExt};

pub(crate) const HELP: &str = "\
A caching reverse proxy: forwards requests to an origin, and answers from a cache what the rules allow.

Usage: cargo run --release --example proxy --features config -- --listen ADDR --origin URL [FLAGS]

  --listen ADDR     where to serve, such as 127.0.0.1:8080; port 0 takes a free one
  --origin URL      whom to ask, such as http://127.0.0.1:3000
  --rules FILE      routes and their rules, in TOML   [without: all that HTTP lets a shared cache keep]
  --memory BYTES    room for the cache, such as 64MiB [64MiB]
  --help            this text

Prints `listening on ADDR` when it is ready, and ends at SIGINT or SIGTERM.
";

const ALLOWED: &str = "--listen ADDR, --origin URL, --rules FILE, --memory BYTES, --help";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) listen: SocketAddr,
    pub(crate) origin: Authority,
    pub(crate) rules: Option<PathBuf>,
    pub(crate) memory: usize,
}

impl Args {
    /// Reads the arguments that follow the program's name; `None` if they ask for help.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut listen, mut origin, mut rules, mut memory) = (None, None, None, 64 << 20);
        let mut parser = Parser::from_args(arguments);
        let refused = |what: String| format!("{what}; there are: {ALLOWED}");
        while let Some(argument) = parser.next().map_err(|error| refused(error.to_string()))? {
            match argument {
                Arg::Long("listen") => listen = Some(value(&mut parser, ADDRESS, |text| text.parse().ok())?),
                Arg::Long("origin") => origin = Some(value(&mut parser, URL, url)?),
                Arg::Long("rules") => rules = Some(value(&mut parser, FILE, |text| Some(text.into()))?),
                Arg::Long("memory") => memory = value(&mut parser, SIZE, bytes)?,
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long(name) => return Err(refused(format!("there is no flag `--{name}`"))),
                Arg::Short(name) => return Err(refused(format!("there is no flag `-{name}`"))),
                Arg::Value(text) => return Err(refused(format!("`{}` belongs to no flag", text.to_string_lossy()))),
            }
        }
        let listen = listen.ok_or_else(|| format!("{ADDRESS}, and it is missing"))?;
        let origin = origin.ok_or_else(|| format!("{URL}, and it is missing"))?;
        Ok(Some(Self { listen, origin, rules, memory }))
    }
}

const ADDRESS: &str = "`--listen` takes an address and a port, such as 127.0.0.1:8080";
const URL: &str = "`--origin` takes http://HOST or http://HOST:PORT, without a path";
const FILE: &str = "`--rules` takes a file";
const SIZE: &str = "`--memory` takes a whole number of bytes, or of KiB, MiB or GiB, such as 64MiB";

/// The value of the flag that was just read, or what it ought to have been.
fn value<T>(parser: &mut Parser, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let text = parser.value().and_then(|value| value.string()).map_err(|_| wanted.to_owned())?;
    read(&text).ok_or_else(|| format!("{wanted}, not `{text}`"))
}

fn url(text: &str) -> Option<Authority> {
    let uri: Uri = text.parse().ok()?;
    let plain = uri.scheme() == Some(&Scheme::HTTP) && uri.path() == "/" && uri.query().is_none();
    let authority = uri.into_parts().authority?;
    (plain && !authority.as_str().contains('@') && !authority.host().is_empty()).then_some(authority)
}

fn bytes(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

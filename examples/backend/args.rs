//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use lexopt::{Arg, Parser, ValueExt};

pub(crate) const HELP: &str = "\
An application with a response cache: flights of January 2013 in SQLite, accounts, and buckets on disk.

Drives traffic against itself without and with the cache, compares the two, shows that writes are seen
at once, and then goes on serving. Its accounts and their passwords are public: keep it on loopback.

Usage: cargo run --release --example backend -- [FLAGS]

  --listen ADDR     where to serve; port 0 takes a free one   [127.0.0.1:3000, or a free port if that is taken]
  --db DIR          keep the database and the buckets here    [a new temporary directory, removed at the end]
  --memory BYTES    room for the cache, such as 64MiB         [64MiB]
  --seconds N       length of the run without the cache       [6]
  --serve           no demonstration, only serve
  --help            this text
";

const ALLOWED: &str = "--listen ADDR, --db DIR, --memory BYTES, --seconds N, --serve, --help";

#[derive(Debug, PartialEq)]
pub(crate) struct Args {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) db: Option<PathBuf>,
    pub(crate) memory: usize,
    pub(crate) measure: Duration,
    pub(crate) serve: bool,
    pub(crate) help: bool,
}

impl Args {
    /// Reads the arguments that follow the program's name.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self {
            listen: None,
            db: None,
            memory: 64 << 20,
            measure: Duration::from_secs(6),
            serve: false,
            help: false,
        };
        let mut parser = Parser::from_args(arguments);
        while let Some(argument) = parser
            .next()
            .map_err(|error| format!("{error}; there are: {ALLOWED}"))?
        {
            match argument {
                Arg::Long("listen") => {
                    let text = value(
                        &mut parser,
                        "--listen",
                        "an address and a port, such as 127.0.0.1:3000",
                    )?;
                    let address = text.parse().map_err(|_| {
                        wrong(
                            "--listen",
                            &text,
                            "an address and a port, such as 127.0.0.1:3000",
                        )
                    })?;
                    args.listen = Some(address);
                }
                Arg::Long("db") => {
                    args.db = Some(value(&mut parser, "--db", "a directory")?.into())
                }
                Arg::Long("memory") => {
                    let text = value(&mut parser, "--memory", SIZE)?;
                    args.memory = bytes(&text).ok_or_else(|| wrong("--memory", &text, SIZE))?;
                }
                Arg::Long("seconds") => {
                    let text = value(&mut parser, "--seconds", "a number from 1 to 3600")?;
                    let seconds = text
                        .parse()
                        .ok()
                        .filter(|seconds| (1..=3600).contains(seconds));
                    args.measure = Duration::from_secs(
                        seconds
                            .ok_or_else(|| wrong("--seconds", &text, "a number from 1 to 3600"))?,
                    );
                }
                Arg::Long("serve") => args.serve = true,
                Arg::Long("help") | Arg::Short('h') => args.help = true,
                Arg::Long(name) => {
                    return Err(format!("there is no flag `--{name}`; there are: {ALLOWED}"));
                }
                Arg::Short(name) => {
                    return Err(format!("there is no flag `-{name}`; there are: {ALLOWED}"));
                }
                Arg::Value(text) => {
                    return Err(format!(
                        "`{}` belongs to no flag; there are: {ALLOWED}",
                        text.to_string_lossy()
                    ));
                }
            }
        }
        Ok(args)
    }
}

const SIZE: &str =
    "a whole number of bytes, or one with KiB, MiB, GiB, KB, MB or GB behind it, such as 64MiB";

fn value(parser: &mut Parser, flag: &str, wanted: &str) -> Result<String, String> {
    let value = parser
        .value()
        .map_err(|_| format!("`{flag}` takes {wanted}"))?;
    value
        .string()
        .map_err(|_| format!("`{flag}` takes {wanted}, in UTF-8"))
}

fn wrong(flag: &str, text: &str, wanted: &str) -> String {
    format!("`{flag}` takes {wanted}, not `{text}`")
}

/// `65536`, `64KiB`, `64 MB`, in any case.
fn bytes(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}

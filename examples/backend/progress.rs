//! Progress of a run: one line that is redrawn on a terminal, otherwise one line each second.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

use super::load_test::Limit;

pub(crate) struct Progress {
    title: String,
    until: Limit,
    terminal: bool,
    /// The second of the last plain line.
    lines: u64,
}

impl Progress {
    pub(crate) fn new(title: &str, until: Limit) -> Self {
        Self { title: title.into(), until, terminal: stdout().is_terminal(), lines: 0 }
    }

    pub(crate) fn show(&mut self, took: Duration, done: u64) {
        if self.terminal {
            self.draw(took, done);
        } else if took.as_secs() > self.lines {
            self.lines = took.as_secs();
            println!("{}", self.line(took, done));
        }
    }

    pub(crate) fn end(&mut self, took: Duration, done: u64) {
        if self.terminal {
            self.draw(took, done);
            println!();
        } else {
            println!("{}", self.line(took, done));
        }
    }

    fn draw(&self, took: Duration, done: u64) {
        let part = match &self.until {
            Limit::Time(time) => took.as_secs_f64() / time.as_secs_f64().max(0.001),
            Limit::Operations(operations) => done as f64 / operations.iter().sum::<u64>().max(1) as f64,
        };
        let full = (part.clamp(0.0, 1.0) * 24.0) as usize;
        print!("\r\x1b[K{}  {}{}", self.line(took, done), "█".repeat(full), "░".repeat(24 - full));
        let _ = stdout().flush();
    }

    fn line(&self, took: Duration, done: u64) -> String {
        let seconds = took.as_secs_f64();
        format!("{:<18}{seconds:>5.1} s {done:>7} operations {:>7.0}/s", self.title, done as f64 / seconds.max(0.001))
    }
}

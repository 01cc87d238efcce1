//! HTTP caching as it is seen on the wire: the proxy of the examples as a process, between an origin and a client that speak bytes.
#![allow(missing_docs, unreachable_pub)]

mod connections;
mod keys;
mod parts;
mod passing;
mod storing;
mod targeted;
mod validation;
mod wire;

use wire::{Origin, Proxy, Says, joined, response};

/// One request and what is expected of its answer.
#[derive(Clone, Copy)]
struct Step {
    asks: &'static str,
    /// What the origin answers; `None`: it must not be asked.
    says: Option<&'static str>,
    /// What the cache did, the status, the content.
    want: &'static str,
    /// Fields of the answer; `-`: none.
    has: &'static [(&'static str, &'static str)],
    /// Fields that the origin is asked with; `-`: none.
    sends: &'static [(&'static str, &'static str)],
}

/// The origin is asked.
const fn asked(asks: &'static str, says: &'static str, want: &'static str) -> Step {
    Step { asks, says: Some(says), want, has: &[], sends: &[] }
}

/// The cache answers by itself.
const fn alone(asks: &'static str, want: &'static str) -> Step {
    Step { asks, says: None, want, has: &[], sends: &[] }
}

impl Step {
    const fn has(self, has: &'static [(&'static str, &'static str)]) -> Self {
        Self { has, ..self }
    }

    const fn sends(self, sends: &'static [(&'static str, &'static str)]) -> Self {
        Self { sends, ..self }
    }
}

/// A table of cases, each a name and its steps, against one proxy: `/x` in a request stands for a path of the case's own.
async fn walk(cases: &[(&str, &[Step])]) {
    walk_with(&[], cases).await;
}

/// The same against a proxy with these rules.
async fn walk_by(rules: &str, cases: &[(&str, &[Step])]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rules).expect("written");
    walk_with(&["--rules", file.path().to_str().expect("text")], cases).await;
}

async fn walk_with(flags: &[&str], cases: &[(&str, &[Step])]) {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, flags).await;
    let mut faults = Vec::new();
    for (case, (name, steps)) in cases.iter().enumerate() {
        let own = |text: &str| text.replace("/x", &format!("/x{case}"));
        for (at, step) in steps.iter().enumerate() {
            if let Some(says) = step.says {
                origin.says(Says::Whole(response(&own(says))));
            }
            let answer = proxy.send(&own(step.asks)).await;
            let got = format!("{} {} {}", answer.outcome(), answer.status, answer.text());
            let mut compare = |what: &str, got: &str, want: &str| {
                if got != want {
                    faults.push(format!("{name}, step {at}: {what}: {got:?}, not {want:?}"));
                }
            };
            compare("the answer", got.trim_end(), step.want);
            for (field, want) in step.has {
                compare(field, &answer.field(field), want);
            }
            let calls = origin.forget();
            compare("calls", &calls.len().to_string(), if step.says.is_some() { "1" } else { "0" });
            for call in &calls {
                for (field, want) in step.sends {
                    compare(&format!("asked with {field}"), &joined(&call.fields, field), want);
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

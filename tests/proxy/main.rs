//! HTTP caching on the wire: the proxy of the examples as a process, between an origin and a client. Both exchange bytes with it.
#![allow(missing_docs, unreachable_pub)]

mod connections;
mod keys;
mod parts;
mod passing;
#[path = "../common/proxy.rs"]
mod program;
mod storing;
mod targeted;
mod validation;
mod wire;

use wire::{Origin, Proxy, Reaction, joined, response};

/// One request and its expected response.
#[derive(Clone, Copy)]
struct Step {
    request: &'static str,
    /// The response of the origin. `None`: the origin must not be called.
    says: Option<&'static str>,
    /// The expected outcome, status and content.
    want: &'static str,
    /// Expected response fields. `-`: absent.
    has: &'static [(&'static str, &'static str)],
    /// Expected fields of the upstream request. `-`: absent.
    sends: &'static [(&'static str, &'static str)],
}

/// Returns a step in which the origin is called.
const fn fetched(request: &'static str, says: &'static str, want: &'static str) -> Step {
    Step { request, says: Some(says), want, has: &[], sends: &[] }
}

/// Returns a step that the cache answers.
const fn cached(request: &'static str, want: &'static str) -> Step {
    Step { request, says: None, want, has: &[], sends: &[] }
}

impl Step {
    const fn has(self, has: &'static [(&'static str, &'static str)]) -> Self {
        Self { has, ..self }
    }

    const fn sends(self, sends: &'static [(&'static str, &'static str)]) -> Self {
        Self { sends, ..self }
    }
}

/// Runs cases, each a name and its steps, against one proxy. `/x` in a request stands for a path of the case's own.
async fn run_cases(cases: &[(&str, &[Step])]) {
    run_cases_with_flags(&[], cases).await;
}

/// Runs cases against a proxy with these rules.
async fn run_cases_with_rules(rules: &str, cases: &[(&str, &[Step])]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rules).expect("written");
    run_cases_with_flags(&["--rules", file.path().to_str().expect("text")], cases).await;
}

async fn run_cases_with_flags(flags: &[&str], cases: &[(&str, &[Step])]) {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, flags).await;
    let mut faults = Vec::new();
    for (case, (name, steps)) in cases.iter().enumerate() {
        let own = |text: &str| text.replace("/x", &format!("/x{case}"));
        for (at, step) in steps.iter().enumerate() {
            if let Some(says) = step.says {
                origin.then(Reaction::Whole(response(&own(says))));
            }
            let answer = proxy.send(&own(step.request)).await;
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
            let calls = origin.take_requests();
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

//! Namespaces that only one side names: the responses, or the writes.

use super::finding::{Finding, FindingKind};
use crate::rules::{Rules, policy::Policy};

/// Finds namespaces of responses that no write invalidates. If something else than templates names invalidated namespaces, nothing is known.
pub(super) fn not_invalidated(reads: &Rules, writes: &Rules, elsewhere: &[String], found: &mut Vec<Finding>) {
    if writes.all().iter().any(|rule| rule.invalidates_others()) {
        return;
    }
    let mut invalidated: Vec<&str> = writes.all().iter().flat_map(|rule| rule.invalidated()).collect();
    invalidated.extend(elsewhere.iter().map(String::as_str));
    for rule in reads.all() {
        let is_missed = |name: &&String| *name != "*" && !invalidated.iter().any(|write| covers(write, name));
        for name in rule.carried().into_iter().filter(is_missed) {
            let problem = format!("no rule for writes invalidates `{name}` or an ancestor of it");
            found.push(Finding::of(FindingKind::NamespaceNotInvalidated, rule, problem));
        }
    }
}

/// Finds namespaces that writes invalidate and to which no response belongs. If something else than templates may name namespaces of responses,
/// nothing is known. A rule without templates may leave that to its handlers, until it `stores_without` namespaces.
pub(super) fn not_carried(reads: &Rules, writes: &Rules, stores_without: impl Fn(&Policy) -> bool, found: &mut Vec<Finding>) {
    let is_open = |rule: &Policy| {
        rule.carries_others()
            || !rule.is_uncached() && rule.carried().is_empty() && rule.http().is_none() && !stores_without(rule)
    };
    if reads.all().iter().any(|rule| is_open(rule)) {
        return;
    }
    let carried: Vec<&String> = reads.all().iter().flat_map(|rule| rule.carried()).collect();
    for rule in writes.all() {
        let is_vain = |write: &&str| !carried.iter().any(|name| covers(write, name));
        for write in rule.invalidated().into_iter().filter(is_vain) {
            let problem = format!("writes invalidate `{write}`, to which no response belongs");
            found.push(Finding::of(FindingKind::NamespaceNotCarried, rule, problem));
        }
    }
}

/// Returns true if the invalidation of one template may invalidate entries of another: it is the same or an ancestor. Templates are compared by
/// their fixed levels.
fn covers(write: &str, name: &str) -> bool {
    if write == "*" {
        return true;
    }
    let mut levels = name.split(':');
    let is_same = |one: &str, other: &str| one == other || one.contains('{') || other.contains('{');
    write.split(':').all(|level| levels.next().is_some_and(|other| is_same(level, other)))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn names_and_ancestors_cover_by_their_fixed_levels() {
        for (write, name, wanted) in [
            ("*", "a:b", true),
            ("a", "a:b", true),
            ("a:{x}", "a:{y}", true),
            ("a:1", "a:{y}", true),
            ("a:{x}", "a:1:b", true),
            ("a:b", "a", false),
            ("ab", "a:b", false),
            ("a:b", "c:b", false),
            ("a:b:{x}", "a:c:{x}", false),
            ("a", "*", false),
        ] {
            assert_eq!(covers(write, name), wanted, "{write} {name}");
        }
    }
}

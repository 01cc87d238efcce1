//! The entries and the writes that two tables of rules treat differently.

use std::{mem, sync::Arc};

use super::{policy::Policy, rule::Rule, table::Rules, write_options::InvalidationRule};
use crate::{namespace::set::Namespaces, route::overlap::may_overlap};

/// The difference between the rules before a reload and those after it.
#[derive(Default)]
pub(crate) struct Difference {
    /// By place in the old table: true if the new rules may not use the entries of the rule.
    pub(crate) is_outdated: Box<[bool]>,
    /// Namespaces of all entries of these old rules.
    pub(crate) old: Namespaces,
    /// Namespaces that cover all names that a write invalidates by the new rules, and not by the old ones.
    pub(crate) new: Namespaces,
}

impl Difference {
    /// Compares two tables. A part of a rule that cannot be compared, such as a closure, is equal only to its own clones.
    pub(crate) fn between(old: &Rules, new: &Rules) -> Self {
        let counterparts = |table: &Rules, rule: &Policy| {
            let at = table.in_use().position(|other| other.route() == rule.route())?;
            table.in_use().nth(at).cloned()
        };
        let same_fields = old.fields() == new.fields();
        let added: Vec<_> = new.in_use().filter(|rule| counterparts(old, rule).is_none()).collect();
        let removed: Vec<_> = old.in_use().filter(|rule| counterparts(new, rule).is_none()).collect();
        let mut all = Self { is_outdated: vec![false; old.all().len()].into(), ..Self::default() };
        for rule in old.in_use().filter(|rule| !rule.is_uncached()) {
            let is_kept = same_fields
                && counterparts(new, rule).is_some_and(|other| rule.rule.shares_entries_with(&other.rule))
                // An added fallback takes no path from a pattern.
                && !added.iter().any(|added| added.route().is_some() && may_overlap(rule.route(), added.route()));
            if !is_kept {
                all.is_outdated[rule.place()] = true;
                add_name(&mut all.old, rule.rule.namespaces.first());
            }
        }
        for rule in new.in_use() {
            // Paths of a removed pattern may now be covered by this one.
            let is_alone = !removed.iter().any(|removed| may_overlap(rule.route(), removed.route()));
            let before = counterparts(old, rule).filter(|_| is_alone);
            let is_kept = before.as_ref().is_some_and(|before| same_fields && before.rule.shares_entries_with(&rule.rule));
            if !is_kept && !rule.is_uncached() && rule.may_be_invalidated() {
                add_name(&mut all.new, rule.rule.namespaces.first());
            }
            if !before.is_some_and(|before| before.rule.invalidates_as(&rule.rule)) {
                rule.rule.add_invalidated(&mut all.new);
            }
        }
        all
    }

    /// Returns true if the new rules use the entries of all old rules, and writes invalidate the same namespaces.
    pub(crate) fn is_none(&self) -> bool {
        self.old.is_empty() && self.new.is_empty()
    }
}

/// Adds the longest name that all names of a template begin with, or the root.
fn add_name(names: &mut Namespaces, template: Option<&String>) {
    let text = template.map_or("", |template| template.as_str());
    let fixed = match text.split_once('{') {
        Some((start, _)) => start.rsplit_once(':').map_or("", |(levels, _)| levels),
        None => text,
    };
    match fixed {
        "" => names.extend(&Namespaces::root()),
        fixed if names.iter().any(|name| name == fixed) => {}
        fixed => names.push_exactly(|name| name.push_str(fixed)),
    }
}

/// Returns true if both lists hold clones of the same closures.
fn are_same<T: ?Sized>(some: &[Arc<T>], others: &[Arc<T>]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| Arc::ptr_eq(one, other))
}

impl Rule {
    /// Returns true if an entry of one rule is an entry of the other: with the same key, and in the same namespaces.
    fn shares_entries_with(&self, other: &Self) -> bool {
        let words = self.key_words.as_ref().zip(other.key_words.as_ref());
        let flags = |rule: &Self| {
            let credentials = (rule.ignore_credentials, rule.ignore_cookies);
            let content = &rule.content;
            (credentials, rule.path_as_text, rule.ignore_forwarded, rule.groups, content.by_post, content.rpc.is_some())
        };
        mem::discriminant(&self.lifetime) == mem::discriminant(&other.lifetime)
            && (Arc::ptr_eq(&self.key, &other.key) || words.is_some_and(|(own, other)| own == other))
            && flags(self) == flags(other)
            && (&self.namespaces, &self.namespaces_field) == (&other.namespaces, &other.namespaces_field)
            && self.selects_responses_as(other)
            && self.normalise == other.normalise
            && self.content.names_objects_as(&other.content)
            && are_same(&self.namespaces_by, &other.namespaces_by)
            && are_same(&self.messages.namespaces, &other.messages.namespaces)
            && are_same(&self.messages.policies, &other.messages.policies)
    }

    /// Returns true if writes under both rules invalidate the same namespaces.
    fn invalidates_as(&self, other: &Self) -> bool {
        let (own, theirs) = (&self.writes, &other.writes);
        let names = match (&own.names, &theirs.names) {
            (InvalidationRule::Own, InvalidationRule::Own) => {
                self.all_templates().eq(other.all_templates()) && are_same(&self.namespaces_by, &other.namespaces_by)
            }
            (InvalidationRule::Listed(own), InvalidationRule::Listed(theirs)) => own == theirs,
            _ => false,
        };
        let computed = own.computed.len() == theirs.computed.len()
            && own.computed.iter().zip(&theirs.computed).all(|(one, two)| one.0 == two.0 && Arc::ptr_eq(&one.1, &two.1));
        names
            && computed
            && own.field == theirs.field
            && own.skip_on_client_error == theirs.skip_on_client_error
            && own.skip_on_server_error == theirs.skip_on_server_error
            && own.softly == theirs.softly
            && are_same(&self.messages.invalidated_by_request, &other.messages.invalidated_by_request)
            && are_same(&self.messages.invalidated_by_response, &other.messages.invalidated_by_response)
    }

    /// Adds names that cover all names that a write may invalidate.
    fn add_invalidated(&self, names: &mut Namespaces) {
        let is_computed = !self.writes.computed.is_empty()
            || self.writes.field.is_some()
            || !self.messages.invalidated_by_request.is_empty()
            || !self.messages.invalidated_by_response.is_empty();
        match &self.writes.names {
            InvalidationRule::Own => {
                self.all_templates().for_each(|template| add_name(names, Some(template)));
                self.namespaces_by.iter().for_each(|_| names.extend(&Namespaces::root()));
            }
            InvalidationRule::Listed(list) => list.iter().for_each(|(_, template)| add_name(names, Some(template))),
        }
        if is_computed {
            names.extend(&Namespaces::root());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        key::{Cookie, CredentialFields, Headers, Identity, KeyExtractor, RouteAndQuery},
        rules::responses::ResponseRule,
    };

    fn rule() -> Rule {
        Rule::ttl(Duration::from_secs(60)).namespace("db:{table}")
    }

    fn table(rule: Rule) -> Rules {
        Rules::new().route("/t/{table}", rule)
    }

    fn names(names: &Namespaces) -> Vec<String> {
        names.iter().map(str::to_owned).collect()
    }

    /// Returns the namespaces of the entries that a change clears.
    fn cleared(old: &Rules, new: &Rules) -> Vec<String> {
        let found = Difference::between(old, new);
        assert_eq!(found.old.is_empty(), !found.is_outdated.contains(&true));
        names(&found.old)
    }

    #[test]
    fn lifetimes_and_limits_keep_entries() {
        let other = Rule::ttl(Duration::from_secs(5)).namespace("db:{table}").jitter(0.5).max_body(9).etag();
        let found = Difference::between(&table(rule()), &table(other.status(http::StatusCode::OK, Duration::ZERO)));
        assert!(found.is_none());
    }

    #[test]
    fn each_change_of_key_or_names_clears() {
        let changed = [
            rule().identity(Identity::bearer()),
            rule().identity(Identity::bearer().required()),
            rule().key(RouteAndQuery),
            rule().ignore_credentials(),
            rule().ignore_cookies(),
            rule().ignore_forwarded(),
            rule().path_as_text(),
            rule().cache_groups(),
            rule().reads_by_post(),
            rule().namespace("more"),
            rule().response_rule(ResponseRule::new().header("x-draft", "*").no_store()),
            rule().response_rule(ResponseRule::new().namespace("more")),
            rule().namespaces_by(|_| Vec::new()),
            rule().namespaces_from_header(http::header::ETAG),
            rule().normalise(crate::semantics::Normalise::none()),
            Rule::http().namespace("db:{table}"),
            Rule::uncached().namespace("db:{table}"),
        ];
        for (n, other) in changed.iter().enumerate() {
            assert_eq!(cleared(&table(rule()), &table(other.clone())), ["db"], "{n}");
            assert!(cleared(&table(other.clone()), &table(other.clone())).is_empty(), "{n}: clones are equal");
        }
        let fields = |rules: Rules| rules.credential_fields(CredentialFields::default().with(["x-token"]));
        assert_eq!(cleared(&table(rule()), &fields(table(rule()))), ["db"]);
        assert_eq!(cleared(&table(rule()), &Rules::new()), ["db"]);
        let custom = rule().key(RouteAndQuery.and(Headers::new(["accept"])).and(Cookie::new("theme")));
        assert!(cleared(&table(custom.clone()), &table(custom.etag())).is_empty());
    }

    #[test]
    fn response_rules_are_compared_without_lifetimes() {
        let seconds = |seconds| ResponseRule::new().content_type("text/*").ttl(Duration::from_secs(seconds));
        let forbids = |value: &str| ResponseRule::new().header("x-kind", value).no_store();
        let by = |rules: &[ResponseRule]| table(rules.iter().cloned().fold(rule(), Rule::response_rule));
        for (old, new, is_kept) in [
            (&[][..], &[seconds(5)][..], true),
            (&[seconds(5)], &[seconds(9)], true),
            (&[seconds(5), forbids("a")], &[seconds(9), forbids("a")], true),
            (&[forbids("a")], &[forbids("a"), seconds(5)], true),
            // The first one excludes responses from the second.
            (&[forbids("a")], &[seconds(5), forbids("a")], false),
            (&[forbids("a")], &[forbids("b")], false),
            (&[forbids("a"), forbids("b")], &[forbids("b"), forbids("a")], false),
            (&[seconds(5).namespace("a")], &[seconds(5).namespace("b")], false),
            (&[forbids("a")], &[], false),
        ] {
            assert_eq!(cleared(&by(old), &by(new)).is_empty(), is_kept, "{old:?} {new:?}");
        }
    }

    #[test]
    fn identities_are_compared_by_their_source() {
        let by = |identity: Identity| table(rule().identity(identity));
        assert!(cleared(&by(Identity::cookie("a")), &by(Identity::cookie("a"))).is_empty());
        assert_eq!(cleared(&by(Identity::cookie("a")), &by(Identity::cookie("b"))), ["db"]);
        assert_eq!(cleared(&by(Identity::by(|_| None)), &by(Identity::by(|_| None))), ["db"]);
    }

    #[test]
    fn added_route_clears_only_routes_it_overlaps() {
        let (old, more) =
            (table(rule()).route("/o/{id}", rule_of("orders")), table(rule()).route("/o/{id}", rule_of("orders")));
        assert_eq!(cleared(&old, &more.clone().route("/t/special", rule_of("s"))), ["db"]);
        assert!(cleared(&old, &more.clone().route("/users/{id}/x", rule_of("u"))).is_empty());
        assert_eq!(cleared(&old, &more.clone().fallback(rule_of("u"))), Vec::<String>::new());
        assert_eq!(cleared(&old.fallback(rule_of("f")), &more.fallback(rule_of("f")).route("/x", rule_of("x"))), ["f"]);
    }

    #[test]
    fn rule_without_namespace_is_cleared_with_all() {
        let none = Rule::ttl(Duration::from_secs(60));
        assert_eq!(cleared(&table(none.clone()), &table(none.ignore_credentials())), ["*"]);
    }

    #[test]
    fn names_of_new_rules_cover_their_writes() {
        let new = |rule: Rule| names(&Difference::between(&table(self::rule()), &table(rule)).new);
        assert_eq!(new(rule().invalidates("a:b:{table}")), ["a:b"]);
        assert_eq!(new(rule().invalidates_on([http::Method::PUT], "{table}")), ["*"]);
        assert_eq!(new(rule().invalidates_by(|_, _| Vec::new())).last().map(String::as_str), Some("*"));
        assert_eq!(new(rule_of("x")), ["x"]);
        assert!(new(rule()).is_empty());
    }

    fn rule_of(name: &str) -> Rule {
        Rule::ttl(Duration::from_secs(60)).namespace(name)
    }
}

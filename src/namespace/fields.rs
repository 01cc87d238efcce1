//! The namespaces that the head of a response names.

use http::{HeaderMap, HeaderName};

use super::{InvalidNamespace, Namespace, cache_groups::GroupOrigin};
use crate::error::BoxError;

/// The parts of a rule that name namespaces by the head of a response.
#[derive(Debug, Clone)]
pub(crate) struct NamingFields {
    /// The origin of cache groups, if the rule uses them.
    pub(crate) groups: Option<GroupOrigin>,
    /// A field that lists namespaces.
    pub(crate) list: Option<HeaderName>,
    /// The namespaces of each response rule.
    pub(crate) by_rule: Box<[Vec<Namespace>]>,
}

impl NamingFields {
    /// Returns the namespaces that a response names, and those of the response rule with this number. A response with unreadable names could not be
    /// invalidated by them.
    pub(crate) fn names_in(&self, response: &HeaderMap, rule: Option<usize>) -> Result<Vec<Namespace>, BoxError> {
        let mut names = match &self.groups {
            Some(origin) => origin.joined(response)?,
            None => Vec::new(),
        };
        if let Some(field) = &self.list {
            names.extend(listed(response, field)?);
        }
        names.extend(rule.and_then(|number| self.by_rule.get(number)).into_iter().flatten().cloned());
        Ok(names)
    }
}

/// Returns the namespaces in all lines of a field, separated by commas (RFC 9110, section 5.6.1). Each is written as [`Namespace`] writes it.
pub(crate) fn listed(headers: &HeaderMap, field: &HeaderName) -> Result<Vec<Namespace>, InvalidNamespace> {
    let mut names = Vec::new();
    for line in headers.get_all(field) {
        let line = str::from_utf8(line.as_bytes()).map_err(|_| InvalidNamespace::not_text())?;
        let items = line.split(',').map(|item| item.trim_matches([' ', '\t'])).filter(|item| !item.is_empty());
        for item in items {
            names.push(Namespace::new(item)?);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: HeaderName = HeaderName::from_static("cache-namespaces");

    fn names(lines: &[&[u8]]) -> Option<Vec<String>> {
        let lines = lines.iter().map(|line| (FIELD, http::HeaderValue::from_bytes(line).expect("a value")));
        let names = listed(&HeaderMap::from_iter(lines), &FIELD).ok()?;
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_stand_in_lists_of_several_lines() {
        assert_eq!(names(&[]), Some(Vec::new()));
        assert_eq!(names(&[b"", b" , ,"]), Some(Vec::new()));
        let all = ["a", "row:orders:17", "b%2C", "\u{e9}"];
        let all = Some(all.map(str::to_owned).to_vec());
        assert_eq!(names(&[b"a,row:orders:17 ,\tb%2C", "\u{e9}".as_bytes()]), all);
    }

    #[test]
    fn one_invalid_name_makes_a_list_unreadable() {
        let long = "a".repeat(201);
        for line in [&b"a, b:"[..], b"a b", b"a, b*", b"\"a\", b c", b"a:b:c:d:e:f:g:h", b"\xff", long.as_bytes()] {
            assert_eq!(names(&[b"a", line]), None, "{line:?}");
        }
    }
}

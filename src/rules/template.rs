//! Templates of namespaces: `db_query:{table}`.

use super::error::{RulePart, RulesError, RulesErrorKind};
use crate::{
    key::{Identity, RequestView},
    namespace::{self, MAX_NAMESPACE_LEN, Namespace, push_value, set::Namespaces},
    secret::IdentityHash,
};

/// A template of a namespace, with places for the parameters of a route and for the identity.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    source: Box<str>,
    pieces: Box<[Piece]>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(Box<str>),
    Param(Box<str>),
    Identity,
}

/// The largest number of bytes of a value in a name. A longer value becomes a hash.
const VALUE: usize = 64;

impl Template {
    /// Parses a template, for a route with these parameters. `identified` is true if the key contains an identity.
    pub(super) fn parse(source: &str, route: Option<&str>, params: &[String], identified: bool) -> Result<Self, RulesError> {
        let fault = |kind, why: String| {
            let error = RulesError::new(kind, route, format!("template {source:?}: {why}"));
            Err(error.in_part(RulePart::Text(source.to_owned())))
        };
        let mut pieces = Vec::new();
        let mut sample = String::new();
        let mut size = 0;
        let mut rest = source;
        while let Some(open) = rest.find(['{', '}']) {
            let Some((name, tail)) = rest[open..].strip_prefix('{').and_then(|after| after.split_once('}')) else {
                return fault(RulesErrorKind::Parameter, "unmatched brace: parameters are written `{name}`".into());
            };
            if open > 0 {
                pieces.push(Piece::Text(rest[..open].into()));
            }
            pieces.push(match name {
                "identity" if !identified => {
                    let why = "the rule's key holds no identity; add one with `.identity(Identity::bearer())`";
                    return fault(RulesErrorKind::Parameter, why.into());
                }
                "identity" => Piece::Identity,
                _ if params.iter().any(|param| param == name) => Piece::Param(name.into()),
                _ => return fault(RulesErrorKind::Parameter, unknown(name, route, params)),
            });
            sample += &rest[..open];
            sample.push('x');
            size += open + VALUE;
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
            sample += rest;
            size += rest.len();
        }
        namespace::check(&sample).map_err(|why| RulesError::namespace(route, source, &why))?;
        if size > MAX_NAMESPACE_LEN {
            let why = format!(
                "the name may have {size} bytes, counting {VALUE} for each parameter: expected at most {MAX_NAMESPACE_LEN}"
            );
            return fault(RulesErrorKind::Namespace, why);
        }
        Ok(Self { source: source.into(), pieces: pieces.into() })
    }

    /// Returns the name, if it is the same for every request.
    pub(super) fn fixed(&self) -> Option<&str> {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_))).then_some(&*self.source)
    }

    /// Adds the names that a write may mean. There are several if the request states several identities, or one in a spelling that not
    /// every handler accepts.
    pub(super) fn add_exactly(&self, names: &mut Namespaces, request: &RequestView<'_>, identity: Option<&Identity>) {
        let names_one = self.pieces.iter().any(|piece| matches!(piece, Piece::Identity));
        match identity.filter(|_| names_one) {
            Some(identity) => {
                for who in identity.candidates(request) {
                    names.push_exactly(|name| self.write(name, request, || who));
                }
            }
            None => names.push_exactly(|name| self.write(name, request, || None)),
        }
    }

    /// Adds the name for a request that is stored, with its ancestors.
    pub(super) fn add(&self, names: &mut Namespaces, request: &RequestView<'_>, identity: Option<&Identity>) {
        names.push_written(|name| self.write(name, request, || identity.and_then(|identity| identity.of(request))));
    }

    /// Returns the name for a request.
    pub(super) fn namespace(&self, request: &RequestView<'_>, identity: Option<&Identity>) -> Namespace {
        let mut name = String::new();
        self.write(&mut name, request, || identity.and_then(|identity| identity.of(request)));
        Namespace::rendered(name)
    }

    fn write(&self, name: &mut String, request: &RequestView<'_>, who: impl Fn() -> Option<IdentityHash>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Param(param) => push_value(name, request.param(param)),
                Piece::Identity => match who() {
                    Some(hash) => name.push_str(&hash.to_string()),
                    None => name.push_str("anonymous"),
                },
            }
        }
    }

    /// Returns a name of this template, for counting.
    pub(super) fn sample(&self, value: &str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Param(_) | Piece::Identity => value.to_owned(),
        };
        self.pieces.iter().map(piece).collect()
    }
}

fn unknown(name: &str, route: Option<&str>, params: &[String]) -> String {
    let mut known: Vec<_> = params.iter().map(|param| format!("`{{{param}}}`")).collect();
    known.push("`{identity}` if the rule has an identity".into());
    let known = known.join(", ");
    match route {
        Some(_) => format!("the route has no parameter `{{{name}}}`: expected one of {known}"),
        None => format!(
            "`{{{name}}}` needs a route that has it: use `.route(\"/…/{{{name}}}\", rule)`; without a route there is only {known}"
        ),
    }
}

/// Returns the names of a pattern's parameters.
pub(crate) fn params_of(pattern: &str) -> Vec<String> {
    let plain = pattern.replace("{{", "").replace("}}", "");
    plain
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*').to_owned())
        .collect()
}

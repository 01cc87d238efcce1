//! Rules from the descriptors of Protobuf services.

use std::time::Duration;

use prost_reflect::{
    DescriptorPool, MethodDescriptor, ServiceDescriptor, Value, prost_types::method_options::IdempotencyLevel,
};

use super::{
    error::{RulesError, RulesErrorKind},
    rule::Rule,
    table::Rules,
};

/// Needs the feature `protobuf`.
impl Rules {
    /// Returns rules for the services in an encoded `FileDescriptorSet`, the file that tonic's reflection needs as well.
    ///
    /// | method | rule |
    /// |---|---|
    /// | unary, with `idempotency_level = NO_SIDE_EFFECTS` | [`Rule::rpc`] with this lifetime, in the namespace of the full name of its service |
    /// | with streams, and `NO_SIDE_EFFECTS`; or with a `(cache.ttl)` of zero | not cached, invalidates nothing |
    /// | any other method of a service that has one with `NO_SIDE_EFFECTS` | not cached, invalidates the namespace of its service |
    ///
    /// A method of another service gets a rule only if it has `(cache.invalidates)`. A method may write data that another service reads: it names
    /// that service by the option `(cache.invalidates)`, or its handler does by [`Invalidations`](crate::Invalidations). The options are those of `proto/cache.proto` of
    /// this crate: `(cache.ttl)` is the lifetime of a method, `(cache.namespace)` and `(cache.invalidates)` add namespaces.
    ///
    /// The set contains all imported files. [`cached_routes`](Self::cached_routes) lists the methods that were taken. Routes of other methods can be
    /// added. See [RPC](crate::guide::rpc#rules-from-a-proto-file) for the build script.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, Rules, RulesError};
    ///
    /// /// `descriptors` is `include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))`, or `tonic::include_file_descriptor_set!`.
    /// fn cache(descriptors: &[u8]) -> Result<ResponseCache, RulesError> {
    ///     let rules = Rules::from_descriptor_set(descriptors, Duration::from_secs(60))?;
    ///     Ok(ResponseCache::new(Memory::new(64 << 20)).rules(rules))
    /// }
    ///
    /// assert!(cache(b"no descriptors").unwrap_err().to_string().starts_with("descriptor set: "));
    /// ```
    ///
    /// # Errors
    ///
    /// If the bytes are no complete set, if no unary method has `NO_SIDE_EFFECTS`, if the lifetime is zero and no such method has a `(cache.ttl)` above
    /// zero, if an option stands at a method that it does not belong to, or if a namespace is invalid. The text names the method.
    pub fn from_descriptor_set(bytes: impl AsRef<[u8]>, ttl: Duration) -> Result<Self, RulesError> {
        Self::from_descriptor_set_with(bytes, ttl, |_, rule| rule)
    }

    /// Returns the rules of [`from_descriptor_set`](Self::from_descriptor_set), each changed by a closure. The closure gets the route of a method,
    /// such as `/notes.v1.Notes/Get`, and its rule. It adds what descriptors do not tell: the identity of callers, metadata in the key, lifetimes of
    /// errors.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Identity, Rules, RulesError};
    ///
    /// /// Calls have a token in `authorization`, and each caller has entries of its own.
    /// fn rules(descriptors: &[u8]) -> Result<Rules, RulesError> {
    ///     Rules::from_descriptor_set_with(descriptors, Duration::from_secs(60), |_route, rule| rule.identity(Identity::bearer()))
    /// }
    /// # assert!(rules(b"no descriptors").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`from_descriptor_set`](Self::from_descriptor_set), and those of [`try_route`](Self::try_route) for the changed rules.
    pub fn from_descriptor_set_with<F>(bytes: impl AsRef<[u8]>, ttl: Duration, mut change: F) -> Result<Self, RulesError>
    where
        F: FnMut(&str, Rule) -> Rule,
    {
        let pool = DescriptorPool::decode(bytes.as_ref()).map_err(|error| RulesError::descriptors(&error))?;
        let mut rules = Self::new();
        for service in pool.services() {
            rules = rules.with_service(&service, ttl, &mut change)?;
        }
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let reads: Vec<_> = methods.filter(|method| matches!(Kind::of(method), Kind::Read)).collect();
        if reads.is_empty() {
            return Err(RulesError::descriptors(&"no unary method has the option `idempotency_level = NO_SIDE_EFFECTS`"));
        }
        let has_lifetime = |method| MethodOptions::of(method).ttl.is_some_and(|own| !own.is_zero());
        if ttl.is_zero() && !reads.iter().any(has_lifetime) {
            return Err(RulesError::descriptors(
                &"no method would be cached: expected a lifetime above zero, or a method with `option (cache.ttl)`",
            ));
        }
        Ok(rules)
    }

    /// Adds the methods of a service if one of them reads.
    fn with_service(
        mut self,
        service: &ServiceDescriptor,
        ttl: Duration,
        change: &mut dyn FnMut(&str, Rule) -> Rule,
    ) -> Result<Self, RulesError> {
        let has_reads = service.methods().any(|method| has_no_side_effects(&method));
        for method in service.methods() {
            let route = format!("/{}/{}", service.full_name(), method.name());
            if !is_identifier(&route) {
                return Err(RulesError::new(RulesErrorKind::Descriptors, Some(&route), "invalid name of a method"));
            }
            let options = MethodOptions::of(&method);
            let misplaced = |why| RulesError::new(RulesErrorKind::Descriptors, Some(&route), why);
            let rule = match (Kind::of(&method), &options) {
                (Kind::Write, MethodOptions { ttl: Some(_), .. }) => {
                    return Err(misplaced("(cache.ttl) needs `idempotency_level = NO_SIDE_EFFECTS`"));
                }
                (Kind::Write, MethodOptions { namespaces, .. }) if !namespaces.is_empty() => {
                    return Err(misplaced("(cache.namespace) needs `idempotency_level = NO_SIDE_EFFECTS`"));
                }
                (Kind::Read | Kind::Stream, MethodOptions { invalidates, .. }) if !invalidates.is_empty() => {
                    return Err(misplaced("(cache.invalidates) contradicts `idempotency_level = NO_SIDE_EFFECTS`"));
                }
                (Kind::Stream, MethodOptions { ttl: Some(ttl), .. }) if !ttl.is_zero() => {
                    return Err(misplaced("(cache.ttl) needs a unary method"));
                }
                (Kind::Stream, _) => Rule::uncached().invalidates_nothing(),
                (Kind::Read, options) if options.ttl.unwrap_or(ttl).is_zero() => Rule::uncached().invalidates_nothing(),
                (Kind::Read, MethodOptions { ttl: own, namespaces, .. }) => {
                    let rule = Rule::rpc(own.unwrap_or(ttl)).namespace(&literal(service.full_name()));
                    namespaces.iter().fold(rule, |rule, name| rule.namespace(&literal(name)))
                }
                (Kind::Write, MethodOptions { invalidates, .. }) if has_reads || !invalidates.is_empty() => {
                    let rule = Rule::uncached().invalidates(&literal(service.full_name()));
                    invalidates.iter().fold(rule, |rule, name| rule.invalidates(&literal(name)))
                }
                (Kind::Write, _) => continue,
            };
            self = self.try_route(&route, change(&route, rule))?;
        }
        Ok(self)
    }
}

/// The effect of a method on the cache.
enum Kind {
    /// It reads, and is unary.
    Read,
    /// It reads, with streams.
    Stream,
    /// It may write.
    Write,
}

impl Kind {
    fn of(method: &MethodDescriptor) -> Self {
        match (has_no_side_effects(method), method.is_client_streaming() || method.is_server_streaming()) {
            (true, false) => Self::Read,
            (true, true) => Self::Stream,
            (false, _) => Self::Write,
        }
    }
}

fn has_no_side_effects(method: &MethodDescriptor) -> bool {
    let options = method.method_descriptor_proto().options.as_ref();
    options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

/// The options of `proto/cache.proto` of a method.
#[derive(Default)]
struct MethodOptions {
    ttl: Option<Duration>,
    namespaces: Vec<String>,
    invalidates: Vec<String>,
}

impl MethodOptions {
    fn of(method: &MethodDescriptor) -> Self {
        let mut options = Self::default();
        for (extension, value) in method.options().extensions() {
            match extension.full_name() {
                "cache.ttl" => options.ttl = duration(value),
                "cache.namespace" => options.namespaces = strings(value),
                "cache.invalidates" => options.invalidates = strings(value),
                _ => {}
            }
        }
        options
    }
}

/// Returns a `google.protobuf.Duration`. A negative one counts as zero.
fn duration(value: &Value) -> Option<Duration> {
    let message = value.as_message()?;
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    Some(match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())),
        _ => Duration::ZERO,
    })
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_list().unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns true for a path of names that are made of letters, digits, `_` and `.`.
fn is_identifier(route: &str) -> bool {
    route.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./".contains(&byte))
}

/// Returns the template of a name without parameters.
fn literal(name: &str) -> String {
    name.replace('{', "{{").replace('}', "}}")
}

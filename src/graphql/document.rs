//! Documents: their operations, and the operation that a request selects.

use apollo_parser::{
    Parser,
    cst::{Alias, CstNode, Definition, Directive, OperationDefinition, OperationType},
};

/// The largest depth of selections, values and types.
const MAX_DEPTH: usize = 64;

/// The largest number of tokens. White space, commas and comments count.
const MAX_TOKENS: usize = 16_384;

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OperationKind {
    Query,
    Mutation,
    Subscription,
}

/// One operation of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    name: Option<Box<str>>,
    kind: OperationKind,
}

/// The properties of an executable document that decide about the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    operations: Vec<Operation>,
    is_incremental: bool,
    has_reserved_alias: bool,
}

/// The text is not an executable document, or it exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotExecutable;

impl Document {
    /// Parses an executable document with limits of depth and length.
    pub(crate) fn parse(text: &str) -> Result<Self, NotExecutable> {
        let tree = Parser::new(text).recursion_limit(MAX_DEPTH).token_limit(MAX_TOKENS).parse();
        if tree.errors().len() > 0 {
            return Err(NotExecutable);
        }
        let document = tree.document();
        let mut operations = Vec::new();
        for definition in document.definitions() {
            match definition {
                Definition::OperationDefinition(operation) => operations.push(Operation::of(&operation).ok_or(NotExecutable)?),
                Definition::FragmentDefinition(_) => {}
                // Definitions of types do not belong into an executable document.
                _ => return Err(NotExecutable),
            }
        }
        if operations.is_empty() {
            return Err(NotExecutable);
        }
        let is_incremental = document
            .syntax()
            .descendants()
            .filter_map(Directive::cast)
            .any(|directive| directive.name().is_some_and(|name| matches!(&*name.text(), "defer" | "stream")));
        let has_reserved_alias = document
            .syntax()
            .descendants()
            .filter_map(Alias::cast)
            .any(|alias| alias.name().is_some_and(|name| matches!(&*name.text(), "__typename" | "id")));
        Ok(Self { operations, is_incremental, has_reserved_alias })
    }

    /// Returns the kind of the operation that a request selects (section 6.1 of the language). Returns `None` if the request does not
    /// select exactly one.
    pub(crate) fn select(&self, name: Option<&str>) -> Option<OperationKind> {
        let mut selected = self.operations.iter().filter(|operation| name.is_none() || operation.name.as_deref() == name);
        selected.next().filter(|_| selected.next().is_none()).map(|operation| operation.kind)
    }

    /// Returns true if a part of the response may arrive later: the document has `@defer` or `@stream`.
    pub(crate) fn is_incremental(&self) -> bool {
        self.is_incremental
    }

    /// Returns true if the response to the document may have a `__typename` or an `id` with the value of another field.
    pub(crate) fn has_reserved_alias(&self) -> bool {
        self.has_reserved_alias
    }

    /// Returns the size of all names of operations.
    pub(crate) fn names_len(&self) -> usize {
        self.operations.iter().filter_map(|operation| operation.name.as_deref()).map(str::len).sum()
    }

    /// Returns all operations.
    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl Operation {
    fn of(definition: &OperationDefinition) -> Option<Self> {
        let kind = match definition.operation_type() {
            // The short form `{ … }`.
            None => OperationKind::Query,
            Some(kind) => OperationKind::of(&kind)?,
        };
        Some(Self { name: definition.name().map(|name| (&*name.text()).into()), kind })
    }
}

impl OperationKind {
    fn of(node: &OperationType) -> Option<Self> {
        match (node.query_token(), node.mutation_token(), node.subscription_token()) {
            (Some(_), None, None) => Some(Self::Query),
            (None, Some(_), None) => Some(Self::Mutation),
            (None, None, Some(_)) => Some(Self::Subscription),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "tests/document.rs"]
mod tests;

//! The JSON Schema of a file of rules, compared with the loader by an independent validator.

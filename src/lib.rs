//! A response cache for Tower services.

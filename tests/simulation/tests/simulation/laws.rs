//! The laws of the histories, and the types that they need.

#[path = "../../../history/check.rs"]
#[allow(dead_code, reason = "the figure of the stalest read and the tests of the laws belong to the histories")]
pub mod check;

#[path = "../../../history/operation.rs"]
pub mod operation;

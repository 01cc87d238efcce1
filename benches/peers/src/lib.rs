//! Other published caches on exactly the work of `benches/cost`, so that anyone can repeat the comparison: the same request, the same
//! response, the same count.

pub mod among;
pub mod cases;
pub mod drive;
pub mod inner;
pub mod load;
pub mod peers;
pub mod times;
pub mod versions;

//! Other published caches on the workload of `benches/cost`: the same request, the same response, and the same method of counting.

pub mod cases;
pub mod client;
pub mod inner;
pub mod load;
pub mod peers;
pub mod scale;
pub mod table;
pub mod times;
pub mod versions;

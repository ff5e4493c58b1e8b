//! Where a worker may run: policies that name regions, which of several nodes is the nearest, and which nodes are
//! left out for a while. It is pure: it opens no connection, and has no clock and no randomness of its own.

mod nearest;
mod outliers;
mod policy;

pub use nearest::{Near, RTT_US_MAX, nearest};
pub use outliers::{EJECTION_MAX, EJECTION_MIN, FAILURES_IN_A_ROW_MAX, Outlier};
pub use policy::{REGIONS_MAX, RegionError, RegionPolicy, RegionRules, RouteRegions, Step};

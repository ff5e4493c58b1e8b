//! Where a worker may run: policies that name regions, which of several nodes is the nearest. It is
//! pure: it opens no connection, and has no clock and no randomness of its own.

mod nearest;
mod policy;

pub use nearest::{Near, RTT_US_MAX, nearest};
pub use policy::{REGIONS_MAX, RegionError, RegionPolicy, RegionRules, RouteRegions, Step};

//! Pools of origins that take a worker's requests to one host: which origin gets a request, and which ones are left
//! out for a while. It is pure: it opens no connection, and has no clock and no randomness of its own.

mod document;
mod state;
mod steering;

#[cfg(test)]
mod tests;

pub use document::{
    HealthCheck, ORIGINS_MAX, Origin, OriginPool, OriginsError, POOLS_MAX, Steering, check_pools,
};
pub use state::{Change, CheckOutcome, Condition, PoolState, Standing};
pub use steering::Vantage;

//! Metrics, health and logs.

//! The one client through which workers reach the internet.

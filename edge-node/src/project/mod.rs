//! Reads wrangler's project files.

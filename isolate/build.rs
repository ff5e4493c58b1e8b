//! Bakes the Web APIs and the runtime's own JS into one startup snapshot.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shares the crate's op declarations, uses few of them"
)]

use std::path::PathBuf;

use deno_core::snapshot::{CreateSnapshotOptions, create_snapshot};

#[path = "src/body.rs"]
mod body;
#[path = "src/charges.rs"]
mod charges;
#[path = "src/connections.rs"]
mod connections;
#[path = "src/exception.rs"]
mod exception;
#[path = "src/extension.rs"]
mod extension;
#[path = "src/host.rs"]
mod host;
#[path = "src/invocation.rs"]
mod invocation;
#[path = "src/logs.rs"]
mod logs;
#[path = "src/ops/mod.rs"]
mod ops;
#[path = "src/outcome.rs"]
mod outcome;
#[path = "src/socket.rs"]
mod socket;
#[path = "src/sockets.rs"]
mod sockets;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let snapshot = create_snapshot(
        CreateSnapshotOptions {
            cargo_manifest_dir: env!("CARGO_MANIFEST_DIR"),
            startup_snapshot: None,
            skip_op_registration: false,
            extensions: extension::extensions(),
            extension_transpiler: None,
            with_runtime_cb: Some(Box::new(|runtime| {
                runtime
                    .execute_script(
                        "atoll:snapshot",
                        "Deno.core.loadExtScript('ext:atoll/main.js');",
                    )
                    .expect("the runtime's own JS loads");
            })),
        },
        None,
    )
    .expect("the snapshot can be made");
    std::fs::write(out.join("runtime.snapshot"), &snapshot.output).expect("OUT_DIR is writable");
    for file in snapshot.files_loaded_during_snapshot {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    for path in [
        "src/body.rs",
        "src/charges.rs",
        "src/connections.rs",
        "src/exception.rs",
        "src/extension.rs",
        "src/host.rs",
        "src/invocation.rs",
        "src/logs.rs",
        "src/outcome.rs",
        "src/socket.rs",
        "src/sockets.rs",
        "src/ops",
        "js",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
}

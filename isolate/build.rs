//! Bakes the Web APIs and the runtime's own JS into one startup snapshot.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shares the crate's op declarations, uses few of them"
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use deno_core::snapshot::{CreateSnapshotOptions, create_snapshot};
use deno_core::wrap_lazy_ext_script;

#[path = "src/body.rs"]
mod body;
#[path = "src/charges.rs"]
mod charges;
#[path = "src/codec.rs"]
mod codec;
#[path = "src/connections.rs"]
mod connections;
#[path = "src/exception.rs"]
mod exception;
#[path = "src/extension.rs"]
mod extension;
#[path = "src/boundary/held_codec.rs"]
#[allow(unsafe_code, reason = "as in the crate")]
mod held_codec;
#[path = "src/host.rs"]
mod host;
#[path = "src/in_flight.rs"]
mod in_flight;
#[path = "src/invocation.rs"]
mod invocation;
#[path = "src/logs.rs"]
mod logs;
#[path = "src/memory.rs"]
mod memory;
#[path = "src/ops/mod.rs"]
mod ops;
#[path = "src/outcome.rs"]
mod outcome;
#[path = "src/socket.rs"]
mod socket;
#[path = "src/sockets.rs"]
mod sockets;

mod boundary {
    pub(crate) use super::held_codec::HeldCodec;
}

/// Writes the sources of the scripts that are loaded late, and the list of them. They are wrapped as deno_core wraps
/// those of the snapshot.
fn write_late_scripts(out: &Path) {
    let extensions = extension::extensions();
    let files = || extensions.iter().flat_map(|extension| extension.lazy_loaded_js_files.iter());
    let mut list = String::from("&[\n");
    for (place, name) in extension::LATE_SCRIPTS.iter().enumerate() {
        let file = files().find(|file| file.specifier == *name).expect("an extension has it");
        let source = file.load().expect("its file can be read");
        let source = wrap_lazy_ext_script(source.as_str());
        assert!(source.is_ascii(), "{name} must be ASCII: V8 reads it where it lies");
        let path = out.join(format!("late_{place}.js"));
        std::fs::write(&path, source).expect("OUT_DIR is writable");
        writeln!(list, "    include_str!({path:?}),").expect("a String takes it");
    }
    list.push(']');
    std::fs::write(out.join("late_scripts.rs"), list).expect("OUT_DIR is writable");
}

fn main() {
    tell_of_v8();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    write_late_scripts(&out);
    let snapshot = create_snapshot(
        CreateSnapshotOptions {
            cargo_manifest_dir: env!("CARGO_MANIFEST_DIR"),
            startup_snapshot: None,
            skip_op_registration: false,
            extensions: extension::extensions(),
            extension_transpiler: None,
            with_runtime_cb: Some(Box::new(|runtime| {
                let late = extension::LATE_SCRIPTS;
                let load = "Deno.core.loadExtScript('ext:atoll/main.js');";
                runtime
                    .execute_script("atoll:snapshot", format!("__late = {late:?}; {load}"))
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
        "src/boundary/held_codec.rs",
        "src/codec.rs",
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

/// The library whose inner layout `src/boundary/footprint.rs` knows, and the checksum that it has.
const V8_LIBRARY: &str = "librusty_v8_ptrcomp_simdutf_release_x86_64-unknown-linux-gnu.a.gz";
const V8_CHECKSUM: &str = "80825a67f62f42f34d164308c0e67de8c042389f4aa91acc91aed205502afe31";

/// Says by `cfg(v8_layout_known)` whether that is what is linked. Another build of the same version is laid out otherwise.
fn tell_of_v8() {
    println!("cargo::rustc-check-cfg=cfg(v8_layout_known)");
    println!("cargo::rerun-if-env-changed=RUSTY_V8_ARCHIVE");
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vendor/v8");
    let (library, checksums) = (vendor.join(V8_LIBRARY), vendor.join("SHA256SUMS"));
    for file in [&library, &checksums] {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let checksums = std::fs::read_to_string(checksums).unwrap_or_default();
    let linked = std::env::var_os("RUSTY_V8_ARCHIVE").and_then(|path| std::fs::read(path).ok());
    let is_linked = linked.is_some() && linked == std::fs::read(library).ok();
    if is_linked && checksums.lines().any(|line| line.starts_with(V8_CHECKSUM)) {
        println!("cargo::rustc-cfg=v8_layout_known");
    }
}

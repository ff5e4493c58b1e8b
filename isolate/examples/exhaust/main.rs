//! Runs scripts that try to exhaust V8's memory, each in a process of its own, and says how each one ends:
//! with an outcome, or with the signal that killed the process.
//!
//! `cargo run -p atoll-isolate --example exhaust [name]`

mod run;

use std::process::Command;

/// Bodies of `fetch` handlers, one a line, each after its name.
const SCRIPTS: &str = include_str!("scripts.txt");

fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
    SCRIPTS.lines().filter_map(|line| line.split_once(": "))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), Some(name)) if flag == "--in-process" => {
            let (_, body) = scripts().find(|(known, _)| *known == name).expect("a known script");
            run::run(body);
        }
        (wanted, _) => {
            let exe = std::env::current_exe().expect("a program");
            for (name, _) in scripts() {
                if wanted.as_ref().is_some_and(|wanted| wanted != name) {
                    continue;
                }
                let child = Command::new(&exe).arg("--in-process").arg(name).output();
                let child = child.expect("the program starts again");
                let said = String::from_utf8_lossy(&child.stdout);
                let end = if child.status.success() {
                    said.trim().to_owned()
                } else {
                    let errors = String::from_utf8_lossy(&child.stderr);
                    let fatal = errors.lines().find(|line| line.contains("Fatal"));
                    format!("KILLED {}; {}", child.status, fatal.unwrap_or_default())
                };
                println!("{name:22} {end}");
            }
        }
    }
}

//! The samples of `examples/`, carried in the binary so that `atoll demo` needs no checkout.

use std::path::Path;

use super::error::CliError;

/// One sample project.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The folder, and the worker's name.
    pub(crate) name: &'static str,
    /// What it shows, in a few words.
    pub(crate) shows: &'static str,
    /// A curl command, or what else to do; `URL` stands for the worker's.
    pub(crate) example: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

macro_rules! sample {
    ($name:literal, $shows:literal, $example:literal, [$($file:literal),* $(,)?]) => {
        Sample {
            name: $name,
            shows: $shows,
            example: $example,
            files: &[$((
                $file,
                include_bytes!(concat!(
                    env!("CARGO_MANIFEST_DIR"), "/../examples/", $name, "/", $file
                )),
            )),*],
        }
    };
}

/// Every sample, in the order in which they are worth looking at.
pub(crate) const SAMPLES: &[Sample] = &[
    sample!(
        "hello",
        "TypeScript, a variable",
        "curl 'URL/?name=Atoll'",
        ["README.md", "wrangler.jsonc", "src/index.ts"]
    ),
    sample!(
        "url-shortener",
        "KV, redirects",
        "curl -d https://example.com/ URL/",
        ["README.md", "wrangler.toml", "src/index.ts"]
    ),
    sample!(
        "hono-jwt",
        "Hono and JWT from npm",
        "curl --json '{\"name\":\"ada\"}' URL/login",
        ["README.md", "wrangler.jsonc", "package.json", "package-lock.json", "src/index.ts"]
    ),
    sample!(
        "ab-split",
        "cookies, streaming rewrite",
        "curl -i URL/",
        ["README.md", "wrangler.toml", "src/index.js"]
    ),
    sample!(
        "ab-rules",
        "rules before any code, env.FLAGS",
        "curl -iA Firefox URL/",
        ["README.md", "wrangler.toml", "src/index.js"]
    ),
    sample!(
        "stream",
        "server-sent events, proxy, echo",
        "curl -N URL/events",
        ["README.md", "wrangler.toml", "src/index.ts"]
    ),
    sample!(
        "websocket",
        "a page and a worker that talk",
        "open URL/ in a browser",
        ["README.md", "wrangler.jsonc", "src/index.ts"]
    ),
    sample!(
        "wasm",
        "a WebAssembly module",
        "curl URL/fibonacci/90",
        ["README.md", "wrangler.toml", "src/index.js", "src/math.wasm", "src/math.wat"]
    ),
    sample!(
        "cron",
        "a job that runs every minute",
        "curl URL/",
        ["README.md", "wrangler.jsonc", "src/index.ts"]
    ),
];

impl Sample {
    /// Writes the sample's files below a folder.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), CliError> {
        for (path, bytes) in self.files {
            let path = dir.join(path);
            let folder = path.parent().unwrap_or(dir);
            std::fs::create_dir_all(folder).map_err(CliError::at(folder))?;
            std::fs::write(&path, bytes).map_err(CliError::at(&path))?;
        }
        Ok(())
    }

    /// Whether packages from npm have to be installed.
    pub(crate) fn has_packages(&self) -> bool {
        self.files.iter().any(|(path, _)| *path == "package-lock.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{Project, find_config};

    fn files_below(dir: &Path) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() && name != "node_modules" && !name.starts_with('.') {
                    folders.push(entry.path());
                } else if entry.path().is_file() {
                    let path = entry.path();
                    files.push(path.strip_prefix(dir).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        files.sort();
        files
    }

    #[test]
    fn the_binary_carries_every_file_of_every_sample() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let folders = std::fs::read_dir(&examples).unwrap().map(Result::unwrap);
        let mut on_disk: Vec<_> = folders
            .filter(|e| e.path().is_dir())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        on_disk.sort();
        let mut carried: Vec<_> = SAMPLES.iter().map(|s| s.name.to_owned()).collect();
        carried.sort();
        assert_eq!(carried, on_disk);
        for sample in SAMPLES {
            let mut carried: Vec<_> = sample.files.iter().map(|(p, _)| p.to_string()).collect();
            carried.sort();
            assert_eq!(carried, files_below(&examples.join(sample.name)), "{}", sample.name);
        }
    }

    #[test]
    fn every_sample_is_a_project_of_its_name() {
        for sample in SAMPLES {
            let dir = tempfile::tempdir().unwrap();
            sample.write(dir.path()).unwrap();
            let project = Project::read(&find_config(dir.path()).unwrap(), None).unwrap();
            assert_eq!(project.name.as_deref(), Some(sample.name));
            assert!(project.warnings.is_empty(), "{:?}", project.warnings);
        }
    }
}

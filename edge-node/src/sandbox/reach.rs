//! Landlock: what the process can reach outside itself. It denies all files but those named, own TCP
//! ports, and signals and abstract sockets of processes outside. Outgoing connections stay.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::{Measure, SandboxOptions};

/// The newest interface that this was tested with. An older kernel gets what it knows of it.
const ABI_MAX: ABI = ABI::V7;

/// What the process looks at to know its own memory. Nothing in there leads to another file that is not
/// allowed by itself.
const OWN: &str = "/proc/self";

/// From where V8 seeds its hashes, for each isolate. It would fall back on the clock.
const RANDOM: &str = "/dev/urandom";

/// Restricts the calling thread and all that it will start.
pub(super) fn restrict(options: &SandboxOptions) -> Measure {
    match try_restrict(options) {
        Ok(measure) => measure,
        Err(error) => Measure::Refused(error.to_string()),
    }
}

fn try_restrict(options: &SandboxOptions) -> Result<Measure, RulesetError> {
    let own = PathFd::new(OWN).ok();
    let readable = options.readable.iter().map(PathBuf::as_path).chain([Path::new(RANDOM)]);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_MAX))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI_MAX))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::ReadFile))?
        .add_rules(
            own.iter().map(|own| Ok::<_, RulesetError>(PathBeneath::new(own, AccessFs::ReadFile))),
        )?
        .restrict_self()?;
    // Open for good: the kernel may forget a directory of a process that nobody holds, and its rule too.
    std::mem::forget(own);
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Measure::NotOffered,
        (_, LandlockStatus::Available { effective_abi, .. }) => applied(effective_abi),
        _ => Measure::NotOffered,
    })
}

/// What the kernel's version of the interface covers.
fn applied(abi: ABI) -> Measure {
    let gaps = [
        (ABI::V4, "own TCP ports"),
        (ABI::V5, "device control"),
        (ABI::V6, "signals and abstract sockets"),
    ];
    let missing: Vec<_> =
        gaps.into_iter().filter(|(since, _)| abi < *since).map(|(_, gap)| gap).collect();
    if missing.is_empty() {
        Measure::Applied
    } else {
        Measure::Partly(format!("the kernel does not restrict {}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_named() {
        assert_eq!(applied(ABI::V7), Measure::Applied);
        assert_eq!(
            applied(ABI::V5).to_string(),
            "partly (the kernel does not restrict signals and abstract sockets)"
        );
        assert_eq!(
            applied(ABI::V1).to_string(),
            "partly (the kernel does not restrict own TCP ports, device control, signals and \
             abstract sockets)"
        );
    }
}

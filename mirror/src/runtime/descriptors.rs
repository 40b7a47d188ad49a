//! File descriptors: how many the process may have, and how many of them are left for clients.
//!
//! An engine that cannot open a file stops the node, and clients open sockets without a signature. So the limit is raised
//! as far as the system allows when the node is opened, and what the engines and the link may need is kept from clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What an origin's engine may have open: tables, files of bodies, and what is being made or freed.
const ENGINE_MAX: u64 = 1024 + 256 + 64;
/// What the link, the admin listener and the rest of the process may have open.
const OTHERS_MAX: u64 = 256 + 256 + 64;

/// Raises the limit as far as this process may, and says what it is.
pub(super) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections clients may have in a process that holds so many origins; at least a few, whatever the limit.
#[must_use]
pub fn connections_max(origins: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(left_for_clients(limit, origins as u64)).unwrap_or(usize::MAX)
}

fn left_for_clients(limit: u64, origins: u64) -> u64 {
    let kept = origins.saturating_mul(ENGINE_MAX).saturating_add(OTHERS_MAX);
    // Engines rarely need all of it: where the limit is low, clients get a part and not nothing.
    limit.saturating_sub(kept).max(limit / 4).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_engines_do_not_need() {
        assert_eq!(left_for_clients(20_000, 2), 20_000 - 2 * ENGINE_MAX - OTHERS_MAX);
        assert_eq!(left_for_clients(1_024, 2), 256, "a low limit");
        assert_eq!(left_for_clients(u64::MAX, 16), u64::MAX - 16 * ENGINE_MAX - OTHERS_MAX);
    }

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let low = Some(maximum.unwrap_or(u64::MAX).min(900));
        setrlimit(Resource::Nofile, Rlimit { current: low, maximum }).expect("a lower one is always allowed");
        assert_eq!(raise(), maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}

//! Health for load balancers and DNS health checks: 200 or 503, with the reason in the body.
//!
//! `live`: the process answers. `ready`: it serves S3. `ready?role=active`: it takes writes for its origin; a pure
//! standby (it mirrors others and has no mirror of its own) is active only where it has taken what it mirrors.
//! `&origin=NAME` asks for one origin. `max_lag=SECONDS`: no stream is further behind than that.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;
use lockstep_mirror::client::Role;
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{OriginStatus, Status, StreamState};

use super::{Admin, AdminError, AdminResult, json, query_value, wall_ms};

pub(super) async fn live() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "live": true }))
}

pub(super) async fn ready(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let wanted = Wanted::parse(query.as_deref()).map_err(|reason| AdminError(StatusCode::BAD_REQUEST, reason))?;
    let verdict = if admin.is_stopping() {
        Err("the node is stopping".to_owned())
    } else {
        wanted.judge(&admin.client.status(), wall_ms())
    };
    Ok(match verdict {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({ "ready": true })),
        Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "reason": reason })),
    })
}

/// What the asker wants the node to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    active: bool,
    origin: Option<String>,
    lag_max_ms: Option<u64>,
}

impl Wanted {
    fn parse(query: Option<&str>) -> Result<Self, String> {
        let active = match query_value(query, "role").as_deref() {
            None => false,
            Some("active") => true,
            Some(other) => return Err(format!("role={other} is not known, only role=active")),
        };
        let lag_max_ms = match query_value(query, "max_lag") {
            None => None,
            Some(text) => {
                let seconds: u64 =
                    text.parse().map_err(|_| format!("max_lag={text} is not a whole number of seconds"))?;
                Some(seconds.saturating_mul(1000))
            }
        };
        Ok(Self { active, origin: query_value(query, "origin"), lag_max_ms })
    }

    fn judge(&self, status: &Status, now_ms: u64) -> Result<(), String> {
        let origins = self.origins(status)?;
        if self.active {
            origins.iter().try_for_each(|origin| takes_writes(origin))?;
        }
        let Some(lag_max_ms) = self.lag_max_ms else { return Ok(()) };
        let judged = if self.origin.is_some() { origins } else { status.origins.iter().collect() };
        for origin in judged {
            let lag_ms = lag_ms(origin, now_ms);
            if lag_ms > lag_max_ms {
                return Err(format!("the stream of {} is {} s behind", origin.origin, lag_ms / 1000));
            }
        }
        Ok(())
    }

    /// The origins that count: the one asked for; else, at a pure standby, all that it mirrors; else its own.
    fn origins<'a>(&self, status: &'a Status) -> Result<Vec<&'a OriginStatus>, String> {
        if let Some(name) = &self.origin {
            let found = status.origins.iter().find(|origin| origin.origin.as_str() == name);
            return found.map(|origin| vec![origin]).ok_or_else(|| format!("this node has no origin {name}"));
        }
        let (own, mirrored): (Vec<_>, Vec<_>) = status.origins.iter().partition(|origin| origin.origin == status.node);
        let standby = !mirrored.is_empty() && own.iter().all(|origin| origin.policy.is_none());
        Ok(if standby { mirrored } else { own })
    }
}

fn takes_writes(origin: &OriginStatus) -> Result<(), String> {
    let refuses = match origin.role {
        Role::Source => match origin.state {
            StreamState::Unsettled | StreamState::Fenced | StreamState::HandingOver => true,
            StreamState::Alone | StreamState::InSync | StreamState::Closing => false,
            _ => origin.policy == Some(Policy::Strict) && !origin.alone,
        },
        Role::Destination | Role::Fenced => true,
    };
    if refuses {
        Err(format!("this node does not take the writes of {}: {}", origin.origin, origin.reason))
    } else {
        Ok(())
    }
}

/// How old what the other end lacks is: at a source the oldest record that the peer has not, at a destination the oldest
/// that is not applied, or the silence on the link.
fn lag_ms(origin: &OriginStatus, now_ms: u64) -> u64 {
    match origin.role {
        Role::Source => origin.behind_ms,
        Role::Destination | Role::Fenced => origin.unapplied_ms.max(now_ms.saturating_sub(origin.last_contact_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::samples;
    use super::*;

    fn judge(query: &str, status: &Status) -> bool {
        Wanted::parse(Some(query)).unwrap().judge(status, 1_000_000).is_ok()
    }

    #[test]
    fn a_standby_is_active_only_after_promote() {
        let mut status = samples::standby();
        assert!(judge("", &status) && !judge("role=active", &status));
        assert!(judge("role=active&origin=site-b", &status) && !judge("origin=nowhere", &status));
        status.origins[1].role = Role::Source;
        status.origins[1].state = StreamState::Alone;
        assert!(judge("role=active", &status));
    }

    #[test]
    fn a_source_is_judged_by_its_own_origin() {
        let mut status = samples::source();
        assert!(judge("role=active", &status));
        status.origins[0].state = StreamState::Unsettled;
        assert!(!judge("role=active", &status) && judge("", &status));
        status.origins[0].state = StreamState::OutOfSync;
        assert!(judge("role=active", &status));
        status.origins[0].policy = Some(Policy::Strict);
        assert!(!judge("role=active", &status));
    }

    #[test]
    fn lag_is_compared_in_seconds() {
        let mut status = samples::source();
        status.origins[0].behind_ms = 4_500;
        assert!(judge("max_lag=5", &status) && !judge("max_lag=4", &status));
        let mut status = samples::standby();
        status.origins[1].last_contact_ms = 990_000;
        assert!(judge("max_lag=10", &status) && !judge("max_lag=9", &status));
        assert!(Wanted::parse(Some("max_lag=soon")).is_err() && Wanted::parse(Some("role=boss")).is_err());
    }
}

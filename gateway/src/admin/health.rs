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
    let status = admin.client.status();
    let verdict =
        if admin.is_stopping() { Err("the node is stopping".to_owned()) } else { wanted.judge(&status, wall_ms()) };
    let causes = causes(&status);
    Ok(match verdict {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({ "ready": true, "causes": causes })),
        Err(reason) => {
            let body = serde_json::json!({ "ready": false, "reason": reason, "causes": causes });
            json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    })
}

/// What is wrong at this node, whether it is ready all the same or not: a sentence each.
fn causes(status: &Status) -> Vec<String> {
    let mut causes = Vec::new();
    let device = &status.device;
    if device.stalled {
        causes.push(format!("the NVRAM has stalled: a persist has not come back for {} ms", device.waits_ms));
    } else if device.slow {
        let (for_s, worst_ms) = (device.slow_ms / 1000, device.worst_ms);
        causes.push(format!("the NVRAM is slow for {for_s} s: a persist took up to {worst_ms} ms"));
    }
    for OriginStatus { origin, full, flapping, .. } in &status.origins {
        if *full {
            causes.push(format!("the disk of {origin} is full"));
        }
        if *flapping {
            causes.push(format!("the link of {origin} comes and goes"));
        }
    }
    causes
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
            if status.device.stalled {
                // Only here: readers need no persist. A slow device answers, and so takes writes.
                return Err(format!("no write is answered: a persist waits for {} ms", status.device.waits_ms));
            }
        }
        let Some(lag_max_ms) = self.lag_max_ms else { return Ok(()) };
        let judged = if self.origin.is_some() { origins } else { status.origins.iter().collect() };
        judged.iter().try_for_each(|origin| is_near(origin, now_ms, lag_max_ms))
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
    if let Some((seq, reason)) = &origin.stuck {
        return Err(format!("record {seq} of {} cannot be applied here: {reason}", origin.origin));
    }
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
fn is_near(origin: &OriginStatus, now_ms: u64, lag_max_ms: u64) -> Result<(), String> {
    let lag_ms = match origin.role {
        Role::Source => origin.behind_ms,
        Role::Destination | Role::Fenced if origin.last_contact_ms == 0 => {
            return Err(format!("the source of {} has not been heard of yet", origin.origin));
        }
        Role::Destination | Role::Fenced => origin.unapplied_ms.max(now_ms.saturating_sub(origin.last_contact_ms)),
    };
    if lag_ms > lag_max_ms {
        // Rounded up: what is more than the limit does not look like the limit.
        return Err(format!("the stream of {} is {} s behind", origin.origin, lag_ms.div_ceil(1000)));
    }
    Ok(())
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
        // Somebody else's stream is not asked for, but its lag is, and its name may be.
        let mut status = samples::standby();
        status.origins[0].policy = Some(Policy::Sync);
        status.origins[1].unapplied_ms = 60_000;
        assert!(judge("role=active", &status) && !judge("role=active&origin=site-a", &status));
        assert!(!judge("max_lag=59", &status) && judge("max_lag=59&origin=site-b", &status));
    }

    #[test]
    fn who_takes_writes_is_said_for_every_state_of_a_source() {
        use StreamState as State;
        // Under `sync` and `async`; under `strict`; under `strict` after a promote, until the first in_sync.
        for (state, by_itself, strictly, promoted) in [
            (State::Alone, true, true, true),
            (State::Unsettled, false, false, false),
            (State::OutOfSync, true, false, true),
            (State::CatchingUp, true, false, true),
            (State::Closing, true, true, true),
            (State::InSync, true, true, true),
            (State::Paused, true, false, true),
            (State::Baseline, true, false, true),
            (State::Refused, true, false, true),
            (State::Fenced, false, false, false),
            (State::HandingOver, false, false, false),
        ] {
            let mut status = samples::source();
            status.origins[0].state = state;
            assert_eq!(judge("role=active", &status), by_itself, "{state} under sync");
            status.origins[0].policy = Some(Policy::Async);
            assert_eq!(judge("role=active", &status), by_itself, "{state} under async");
            status.origins[0].policy = Some(Policy::Strict);
            assert_eq!(judge("role=active", &status), strictly, "{state} under strict");
            status.origins[0].alone = true;
            assert_eq!(judge("role=active", &status), promoted, "{state} under strict, promoted");
            assert!(judge("", &status), "{state}: it answers");
        }
    }

    /// A node whose one stream that counts is in this state.
    fn node(role: Role, state: StreamState) -> Status {
        let mut status = if role == Role::Destination { samples::standby() } else { samples::source() };
        let origin = status.origins.last_mut().unwrap();
        (origin.role, origin.state) = (role, state);
        status
    }

    #[test]
    fn every_role_has_an_answer_to_every_question() {
        let near: fn(&mut OriginStatus) = |_| {};
        let unacked: fn(&mut OriginStatus) = |origin| origin.behind_ms = 10_001;
        let unapplied: fn(&mut OriginStatus) = |origin| origin.unapplied_ms = 10_001;
        let silent: fn(&mut OriginStatus) = |origin| origin.last_contact_ms = 1_000_000 - 10_001;
        let unheard: fn(&mut OriginStatus) = |origin| origin.last_contact_ms = 0;
        let cases = [
            // Role, state, what is so, is it active, is it near.
            (Role::Source, StreamState::InSync, near, true, true),
            (Role::Source, StreamState::InSync, unacked, true, false),
            // Nothing waits for the peer: what it says, or does not say, is no lag.
            (Role::Source, StreamState::InSync, silent, true, true),
            (Role::Source, StreamState::InSync, unheard, true, true),
            (Role::Source, StreamState::OutOfSync, near, true, true),
            (Role::Source, StreamState::OutOfSync, unacked, true, false),
            (Role::Destination, StreamState::InSync, near, false, true),
            (Role::Destination, StreamState::InSync, unapplied, false, false),
            (Role::Destination, StreamState::Unsettled, silent, false, false),
            (Role::Destination, StreamState::OutOfSync, unheard, false, false),
            // What the promoted node lacks of this one is a tail, and no lag.
            (Role::Fenced, StreamState::Fenced, near, false, true),
            (Role::Fenced, StreamState::Fenced, unacked, false, true),
            (Role::Fenced, StreamState::Fenced, silent, false, false),
            (Role::Fenced, StreamState::Fenced, unheard, false, false),
        ];
        for (number, (role, state, change, active, near)) in cases.into_iter().enumerate() {
            let mut status = node(role, state);
            change(status.origins.last_mut().unwrap());
            for origin in ["", "&origin=site-a"] {
                for (question, expected) in [
                    ("", true),
                    ("role=active", active),
                    ("max_lag=10", near),
                    ("max_lag=11", near || status.origins.last().unwrap().last_contact_ms > 0),
                    ("max_lag=18446744073709551615", near || status.origins.last().unwrap().last_contact_ms > 0),
                    ("role=active&max_lag=10", active && near),
                    ("max_lag=10&role=active", active && near),
                ] {
                    let query = format!("{question}{origin}");
                    assert_eq!(judge(&query, &status), expected, "case {number}, {role:?} {state}: {query}");
                }
            }
        }
    }

    #[test]
    fn a_slow_device_is_a_cause_and_a_stalled_one_takes_no_writes() {
        let mut status = samples::source();
        assert_eq!(causes(&status), Vec::<String>::new());
        status.device.slow = true;
        (status.device.slow_ms, status.device.worst_ms, status.device.waits_ms) = (4_900, 1_300, 700);
        assert!(judge("", &status) && judge("role=active", &status));
        assert_eq!(causes(&status), ["the NVRAM is slow for 4 s: a persist took up to 1300 ms"]);
        (status.device.stalled, status.device.waits_ms) = (true, 12_000);
        assert!(judge("", &status) && !judge("role=active", &status));
        (status.origins[0].flapping, status.origins[0].full) = (true, true);
        let said = causes(&status);
        assert_eq!(said[0], "the NVRAM has stalled: a persist has not come back for 12000 ms");
        assert_eq!(said[1..], ["the disk of site-a is full", "the link of site-a comes and goes"]);
    }

    #[test]
    fn lag_is_compared_in_seconds_and_said() {
        let mut status = samples::source();
        status.origins[0].behind_ms = 4_500;
        assert!(judge("max_lag=5", &status) && !judge("max_lag=4", &status));
        let said = |query: &str, status: &Status| Wanted::parse(Some(query)).unwrap().judge(status, 1_000_000);
        assert_eq!(said("max_lag=4", &status), Err("the stream of site-a is 5 s behind".into()));
        let mut status = samples::standby();
        status.origins[1].last_contact_ms = 990_000;
        assert!(judge("max_lag=10", &status) && !judge("max_lag=9", &status));
        status.origins[1].last_contact_ms = 0;
        let unheard = said("max_lag=9", &status).expect_err("nothing is known");
        assert_eq!(unheard, "the source of site-a has not been heard of yet");
        for wrong in ["max_lag=soon", "max_lag=", "max_lag=-1", "max_lag=1.5", "max_lag=5s", "role=boss", "role="] {
            assert!(Wanted::parse(Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(Wanted::parse(None), Ok(Wanted::default()));
    }
}

//! Metrics of the log, its streams and the engines as Prometheus text, written by hand from the core's status.
//!
//! Names are stable (they are in the documents); a value that a node does not have is left out rather than sent as zero.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use lockstep_mirror::status::{OriginStatus, Status};
use lockstep_storage::image::Image;

use super::status::{policy_name, role_name};
use super::{Admin, wall_ms};
use crate::metrics::{head, line, seconds};

pub(super) async fn get_metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut out = String::with_capacity(16 << 10);
    let status = admin.client.status();
    node(&status, admin.started.elapsed().as_secs(), &mut out);
    streams(&status, wall_ms(), &mut out);
    engines(&admin, &status, &mut out);
    admin.s3.render(&mut out);
    let mut response = Response::new(Body::from(out));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn node(status: &Status, uptime_s: u64, out: &mut String) {
    head(out, "lockstep_info", "gauge", "Always 1; version, node and persist class are in the labels");
    let labels = format!("version=\"{}\",node=\"{}\"", env!("CARGO_PKG_VERSION"), status.node);
    line(out, &format!("lockstep_info{{{labels},persist=\"{}\"}}", status.persist_class), 1);
    for (name, kind, help, value) in [
        ("lockstep_uptime_seconds", "gauge", "Seconds since the node started", uptime_s.to_string()),
        ("lockstep_log_batches_total", "counter", "Batches persisted in NVRAM", status.batches.to_string()),
        ("lockstep_log_records_total", "counter", "Records persisted in NVRAM", status.batch_records.to_string()),
        ("lockstep_log_bytes_total", "counter", "Bytes of records persisted in NVRAM", status.batch_bytes.to_string()),
        (
            "lockstep_log_persist_seconds_total",
            "counter",
            "Time that NVRAM persists took, added up",
            seconds(status.persist_us),
        ),
        (
            "lockstep_log_persist_wait_seconds",
            "gauge",
            "Age of the oldest persist under way",
            milliseconds(status.device.waits_ms),
        ),
        (
            "lockstep_log_device_slow",
            "gauge",
            "Have persists been late for a while?",
            u8::from(status.device.slow).to_string(),
        ),
        (
            "lockstep_log_device_slow_total",
            "counter",
            "Times that the NVRAM became slow",
            status.device.slow_times.to_string(),
        ),
    ] {
        head(out, name, kind, help);
        line(out, name, value);
    }
}

/// A metric of every origin: name, type, help, and its value where the origin has one.
type OriginMetric = (&'static str, &'static str, &'static str, fn(&OriginStatus, u64) -> Option<String>);

fn milliseconds(ms: u64) -> String {
    seconds(ms.saturating_mul(1000))
}

const ORIGIN_METRICS: &[OriginMetric] = &[
    ("lockstep_last_seq", "gauge", "Last record here", |o, _| Some(o.last.to_string())),
    ("lockstep_persisted_seq", "gauge", "Last record persisted here", |o, _| Some(o.persisted.to_string())),
    ("lockstep_committed_seq", "gauge", "Last record committed", |o, _| Some(o.committed.to_string())),
    ("lockstep_applied_seq", "gauge", "Last record applied to the image here", |o, _| Some(o.applied.to_string())),
    ("lockstep_flushed_seq", "gauge", "Last record durable in the engine here", |o, _| Some(o.flushed.to_string())),
    ("lockstep_stream_seq_gap", "gauge", "Records that the peer has not persisted", |o, _| {
        o.peer.as_ref().map(|_| o.last.0.saturating_sub(o.peer_persisted.0).to_string())
    }),
    ("lockstep_stream_behind_bytes", "gauge", "Bytes of records that the peer has not persisted", |o, _| {
        o.peer.as_ref().map(|_| o.behind_bytes.to_string())
    }),
    ("lockstep_stream_behind_seconds", "gauge", "Age of the oldest record that the peer has not persisted", |o, _| {
        o.peer.as_ref().map(|_| milliseconds(o.behind_ms))
    }),
    ("lockstep_stream_unapplied_seconds", "gauge", "Age of the oldest record that is not in the replica", |o, _| {
        o.peer.as_ref().map(|_| milliseconds(o.unapplied_ms))
    }),
    ("lockstep_stream_last_contact_seconds", "gauge", "Age of the last message from the peer", |o, now| {
        (o.last_contact_ms > 0).then(|| milliseconds(now.saturating_sub(o.last_contact_ms)))
    }),
    ("lockstep_stream_connects_total", "counter", "Connections made", |o, _| {
        o.peer.as_ref().map(|_| o.connects.to_string())
    }),
    ("lockstep_stream_link_losses_total", "counter", "Times that the link stood and was lost", |o, _| {
        o.peer.as_ref().map(|_| o.link_losses.to_string())
    }),
    ("lockstep_stream_flapping", "gauge", "Does the link come and go?", |o, _| {
        o.peer.as_ref().map(|_| u8::from(o.flapping).to_string())
    }),
    ("lockstep_stream_state_changes_total", "counter", "Changes of the stream's state", |o, _| {
        o.peer.as_ref().map(|_| o.state_changes.to_string())
    }),
    ("lockstep_stream_clock_skew_seconds", "gauge", "The peer's clock minus this node's", |o, _| {
        o.skew_ms.map(|ms| format!("{}{}", if ms < 0 { "-" } else { "" }, milliseconds(ms.unsigned_abs())))
    }),
    ("lockstep_acks_mirrored_total", "counter", "Writes answered that the peer had", |o, _| {
        Some(o.mirrored_acks.to_string())
    }),
    ("lockstep_acks_degraded_total", "counter", "Writes answered that only this node had", |o, _| {
        Some(o.degraded_acks.to_string())
    }),
    ("lockstep_consistency_point_seq", "gauge", "Last consistency point", |o, _| Some(o.consistency_point.to_string())),
    ("lockstep_consistency_point_age_seconds", "gauge", "Age of the last consistency point", |o, now| {
        (o.consistency_point_ms > 0).then(|| milliseconds(now.saturating_sub(o.consistency_point_ms)))
    }),
    ("lockstep_container_backlog_records", "gauge", "Records that the container keeps for the peer", |o, _| {
        Some(o.last.0.saturating_sub(o.trimmed.0).to_string())
    }),
    ("lockstep_chunks_repaired_total", "counter", "Damaged chunks that got their bytes from the peer", |o, _| {
        Some(o.repaired.to_string())
    }),
    ("lockstep_chunks_unrepaired_total", "counter", "Damaged chunks that the peer could not give", |o, _| {
        Some(o.unrepaired.to_string())
    }),
    ("lockstep_baseline_bytes", "gauge", "Bytes of the baseline under way that are over", |o, _| {
        o.baseline.map(|baseline| (baseline.have + baseline.bytes).to_string())
    }),
    ("lockstep_baseline_total_bytes", "gauge", "About how many bytes the baseline under way is", |o, _| {
        o.baseline.map(|baseline| baseline.total.to_string())
    }),
    ("lockstep_nvram_segment_bytes", "gauge", "Bytes of a segment", |o, _| Some(o.segment_len.to_string())),
    ("lockstep_nvram_waits_total", "counter", "Times that writers waited for a segment", |o, _| {
        Some(o.segment_waits.to_string())
    }),
    ("lockstep_disk_full", "gauge", "Is the engine's disk full?", |o, _| Some(u8::from(o.full).to_string())),
    ("lockstep_apply_stuck", "gauge", "Is there a record that cannot be applied?", |o, _| {
        Some(u8::from(o.stuck.is_some()).to_string())
    }),
];

fn streams(status: &Status, now_ms: u64, out: &mut String) {
    head(out, "lockstep_stream_state", "gauge", "Always 1; role, state, policy and peer are in the labels");
    for origin in &status.origins {
        let (role, state) = (role_name(origin.role), origin.state.as_str());
        let policy = origin.policy.map_or("", policy_name);
        let peer = origin.peer.as_ref().map_or("", |peer| peer.as_str());
        let labels = format!("origin=\"{}\",role=\"{role}\",state=\"{state}\"", origin.origin);
        line(out, &format!("lockstep_stream_state{{{labels},policy=\"{policy}\",peer=\"{peer}\"}}"), 1);
    }
    head(out, "lockstep_nvram_segments", "gauge", "NVRAM segments by state");
    for origin in &status.origins {
        let (free, active, sealed) = origin.segments;
        for (state, count) in [("free", free), ("active", active), ("sealed", sealed)] {
            let labels = format!("origin=\"{}\",state=\"{state}\"", origin.origin);
            line(out, &format!("lockstep_nvram_segments{{{labels}}}"), count);
        }
    }
    for (name, kind, help, value) in ORIGIN_METRICS {
        head(out, name, kind, help);
        for origin in &status.origins {
            if let Some(value) = value(origin, now_ms) {
                line(out, &format!("{name}{{origin=\"{}\"}}", origin.origin), value);
            }
        }
    }
}

fn engines(admin: &Admin, status: &Status, out: &mut String) {
    head(out, "lockstep_engine", "gauge", "The storage engine's own figures, by name");
    for origin in &status.origins {
        let image = admin.client.image(&origin.origin);
        for (figure, value) in image.map(Image::figures).unwrap_or_default() {
            line(out, &format!("lockstep_engine{{origin=\"{}\",figure=\"{figure}\"}}", origin.origin), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::samples;
    use super::*;

    #[test]
    fn every_line_is_prometheus_text_and_every_metric_is_described_once() {
        let mut out = String::new();
        let status = samples::standby();
        node(&status, 60, &mut out);
        streams(&status, 1_000_000, &mut out);
        let mut described = std::collections::BTreeSet::new();
        for line in out.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(described.insert(rest.split(' ').next().unwrap()), "described twice: {line}");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(described.contains(name.split('{').next().unwrap()), "{line}");
            }
        }
        assert!(out.contains("lockstep_stream_state{origin=\"site-a\",role=\"destination\",state=\"in_sync\""));
        assert!(out.contains("lockstep_consistency_point_age_seconds{origin=\"site-a\"} 1\n"));
        assert!(out.contains("lockstep_stream_clock_skew_seconds{origin=\"site-a\"} -0.012\n"), "{out}");
        // A node without a mirror has no lag, rather than a lag of zero.
        assert!(!out.contains("lockstep_stream_behind_bytes{origin=\"site-b\"}"));
    }
}

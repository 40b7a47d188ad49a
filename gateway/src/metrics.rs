//! What the S3 service counts: requests by operation and status, their time, bytes in and out.
//!
//! The service calls [`S3Metrics::record`] once a request, after its answer has been sent; the admin listener renders
//! what has come together as Prometheus text. Recording is a read lock and a few atomic additions. Names of operations
//! are static and statuses are HTTP's, so the number of counters has a bound.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Upper bounds of the latency buckets, in microseconds.
pub const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
    60_000_000,
];

/// Counters of the S3 listener. One a node, shared by reference.
#[derive(Debug, Default)]
pub struct S3Metrics {
    requests: RwLock<BTreeMap<(&'static str, u16), Arc<AtomicU64>>>,
    latencies: RwLock<BTreeMap<&'static str, Arc<Latency>>>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    in_flight: AtomicI64,
}

#[derive(Debug, Default)]
struct Latency {
    /// How many requests fell in each bucket (not cumulated), the last one above all bounds.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Counts a request as being in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<S3Metrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl S3Metrics {
    /// Counts a request that is done: `op` is S3's name of the operation (or one fixed word for what has none), `status`
    /// the HTTP status, bytes those of the bodies, `micros` the time from the parsed head to the last byte handed over.
    pub fn record(&self, op: &'static str, status: u16, bytes_in: u64, bytes_out: u64, micros: u64) {
        slot(&self.requests, (op, status)).fetch_add(1, Ordering::Relaxed);
        let latency = slot(&self.latencies, op);
        let bucket = BUCKETS_US.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS_US.len());
        latency.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        latency.sum_us.fetch_add(micros, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// A request has begun; it is in flight until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// All of it as Prometheus text, at the end of `out`.
    pub fn render(&self, out: &mut String) {
        head(out, "lockstep_s3_requests_total", "counter", "S3 requests answered, by operation and status");
        for ((op, status), count) in read(&self.requests) {
            let count = count.load(Ordering::Relaxed);
            line(out, &format!("lockstep_s3_requests_total{{operation=\"{op}\",status=\"{status}\"}}"), count);
        }
        head(out, "lockstep_s3_request_seconds", "histogram", "Time of S3 requests, by operation");
        for (op, latency) in read(&self.latencies) {
            latency.render(op, out);
        }
        head(out, "lockstep_s3_bytes_in_total", "counter", "Bytes of request bodies");
        line(out, "lockstep_s3_bytes_in_total", self.bytes_in.load(Ordering::Relaxed));
        head(out, "lockstep_s3_bytes_out_total", "counter", "Bytes of answer bodies");
        line(out, "lockstep_s3_bytes_out_total", self.bytes_out.load(Ordering::Relaxed));
        head(out, "lockstep_s3_requests_in_flight", "gauge", "S3 requests being worked on");
        line(out, "lockstep_s3_requests_in_flight", self.in_flight.load(Ordering::Relaxed));
    }
}

impl Latency {
    fn render(&self, op: &str, out: &mut String) {
        let mut total = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = BUCKETS_US.get(bucket).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            line(out, &format!("lockstep_s3_request_seconds_bucket{{operation=\"{op}\",le=\"{bound}\"}}"), total);
        }
        let sum = seconds(self.sum_us.load(Ordering::Relaxed));
        line(out, &format!("lockstep_s3_request_seconds_sum{{operation=\"{op}\"}}"), sum);
        line(out, &format!("lockstep_s3_request_seconds_count{{operation=\"{op}\"}}"), total);
    }
}

/// The two lines that come before a metric's values.
pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One value.
pub(crate) fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

/// Microseconds as seconds, exactly, without a float's rounding.
pub(crate) fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The counter of a name, made when it is first asked for.
fn slot<K: Ord + Copy, V: Default>(map: &RwLock<BTreeMap<K, Arc<V>>>, key: K) -> Arc<V> {
    if let Some(found) = map.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Arc::clone(found);
    }
    Arc::clone(map.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
}

fn read<K: Ord + Copy, V>(map: &RwLock<BTreeMap<K, Arc<V>>>) -> Vec<(K, Arc<V>)> {
    let map = map.read().unwrap_or_else(PoisonError::into_inner);
    map.iter().map(|(key, value)| (*key, Arc::clone(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_and_status_and_buckets_add_up() {
        let metrics = Arc::new(S3Metrics::default());
        metrics.record("PutObject", 200, 100, 0, 700);
        metrics.record("PutObject", 200, 50, 0, 70_000_000);
        metrics.record("PutObject", 503, 0, 300, 500);
        let open = metrics.begin();
        let mut text = String::new();
        metrics.render(&mut text);
        for expected in [
            "lockstep_s3_requests_total{operation=\"PutObject\",status=\"200\"} 2",
            "lockstep_s3_requests_total{operation=\"PutObject\",status=\"503\"} 1",
            "lockstep_s3_request_seconds_bucket{operation=\"PutObject\",le=\"0.0005\"} 1",
            "lockstep_s3_request_seconds_bucket{operation=\"PutObject\",le=\"0.001\"} 2",
            "lockstep_s3_request_seconds_bucket{operation=\"PutObject\",le=\"60\"} 2",
            "lockstep_s3_request_seconds_bucket{operation=\"PutObject\",le=\"+Inf\"} 3",
            "lockstep_s3_request_seconds_sum{operation=\"PutObject\"} 70.0012",
            "lockstep_s3_request_seconds_count{operation=\"PutObject\"} 3",
            "lockstep_s3_bytes_in_total 150",
            "lockstep_s3_bytes_out_total 300",
            "lockstep_s3_requests_in_flight 1",
        ] {
            assert!(text.lines().any(|line| line == expected), "missing: {expected}\n{text}");
        }
        drop(open);
        let mut text = String::new();
        metrics.render(&mut text);
        assert!(text.contains("lockstep_s3_requests_in_flight 0"));
    }

    #[test]
    fn seconds_are_exact() {
        for (micros, text) in
            [(0, "0"), (1, "0.000001"), (2_500, "0.0025"), (60_000_000, "60"), (61_000_001, "61.000001")]
        {
            assert_eq!(seconds(micros), text);
        }
    }
}

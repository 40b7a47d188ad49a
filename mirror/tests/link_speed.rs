//! Much through one stream: all of it arrives, in order and sound. The figures are printed, not judged: see them with
//! `cargo test --release -p lockstep-mirror --test link_speed -- --nocapture`.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "two ends of a link on real sockets")]

#[path = "link/support.rs"]
mod support;

use std::time::Instant;

use lockstep_mirror::message::{Ack, Message};
use lockstep_storage::id::Seq;

use support::{Pair, append, options, record};

/// Bytes of records that may be on the way.
const CREDIT: usize = 32 << 20;

/// Milliseconds of CPU that this process has used, in steps of 10; none where the system does not tell.
fn cpu_ms() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields = stat.rsplit(')').next()?.split_whitespace().collect::<Vec<_>>();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 10)
}

/// Sends `total` records of `len` bytes, `batch` in a message; the other end acknowledges every message.
async fn run(len: usize, batch: usize, total: usize) {
    let mut pair = Pair::new(options(), options()).await;
    let payload = bytes::Bytes::from(vec![7; len]);
    let records: Vec<_> = (1..=total).map(|seq| record(seq as u64, payload.clone())).collect();
    let (started, cpu) = (Instant::now(), cpu_ms());
    let (mut sent, mut acked, mut got) = (0, 0, 0);
    while acked < total {
        while sent < total && (sent - acked) * len < CREDIT {
            let next = (sent + batch).min(total);
            pair.send_from_a(append(records[sent..next].to_vec()));
            sent = next;
        }
        tokio::select! {
            message = pair.b.received() => {
                let Message::Append(append) = message else { panic!("no append") };
                for record in append.records {
                    got += 1;
                    assert_eq!(record.header.seq, Seq(got));
                    assert_eq!(record.payload.len(), len);
                }
                let (received, credit) = (Seq(got), CREDIT as u64);
                let ack = Ack { received, persisted: Seq(got), applied: Seq(0), credit };
                pair.send_from_b(Message::Ack(ack));
            }
            message = pair.a.received() => {
                let Message::Ack(ack) = message else { panic!("no ack") };
                acked = usize::try_from(ack.received.0).expect("small");
            }
        }
    }
    let (mib, seconds) = ((total * len) as f64 / f64::from(1 << 20), started.elapsed().as_secs_f64());
    let cpu = cpu.zip(cpu_ms()).map(|(before, after)| (after - before) as f64 / mib);
    pair.a.link.close(&support::name("site-a"), pair.at_a);
    pair.b.disconnected(pair.at_b).await;
    println!("{len} bytes, {batch} in a message: {:.0} MiB/s, CPU ms per MiB, both ends: {cpu:.2?}", mib / seconds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_and_many_small_records_arrive() {
    run(1 << 20, 1, 1 << 10).await;
    run(1 << 20, 8, 1 << 10).await;
    run(4 << 10, 256, 1 << 16).await;
    run(4 << 10, 1, 1 << 16).await;
    run(100, 1, 1 << 16).await;
}

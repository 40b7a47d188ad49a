//! What digests of bodies cost: the `md-5` crate on one body after the other, and the pool on several uploads at once, in
//! chunks of 1 MiB as the upload path makes them. Prints; checks only that both come to the same.
//!
//!     cargo bench --profile release -p lockstep-gateway --bench digests

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_gateway::s3::digest::{DigestPool, Digester};
use md5::{Digest as _, Md5};
use tokio::sync::oneshot;

const CHUNK_LEN: usize = 1 << 20;
const CHUNKS: usize = 4;
const TIME: Duration = Duration::from_millis(800);

fn main() {
    let bodies: Vec<Vec<Bytes>> = (0..32).map(|n| (0..CHUNKS).map(|at| chunk(n * CHUNKS + at)).collect()).collect();
    println!("{:>12} {:>8} {:>10} {:>14}", "way", "streams", "MiB/s", "CPU ms a MiB");
    measure("md-5 crate", &bodies[..1], |body| {
        let mut md5 = Md5::new();
        for chunk in body {
            md5.update(chunk);
        }
        md5.finalize().into()
    });
    for streams in [1, 2, 4, 8, 16, 32] {
        let pool = DigestPool::default();
        measure("pool", &bodies[..streams], |body| {
            let digested = body.iter().fold(Digester::new(&[]), |digester, chunk| {
                let (done, digested) = oneshot::channel();
                pool.update(digester, chunk.clone(), done);
                digested.blocking_recv().expect("the pool answers")
            });
            digested.finish().md5
        });
    }
}

fn chunk(seed: usize) -> Bytes {
    (0..CHUNK_LEN).map(|at| (seed * 131 + at * 7 + (at >> 8)) as u8).collect()
}

/// Every stream digests its body again and again, on a thread of its own.
fn measure(way: &str, bodies: &[Vec<Bytes>], digest: impl Fn(&[Bytes]) -> [u8; 16] + Sync) {
    let expected: Vec<[u8; 16]> = bodies.iter().map(|body| Md5::digest(body.concat()).into()).collect();
    let (begun, cpu_begun) = (Instant::now(), cpu());
    let rounds: usize = thread::scope(|scope| {
        let streams: Vec<_> = bodies
            .iter()
            .zip(&expected)
            .map(|(body, expected)| {
                let digest = &digest;
                scope.spawn(move || {
                    let mut rounds = 0;
                    while begun.elapsed() < TIME {
                        assert_eq!(&black_box(digest(body)), expected);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        streams.into_iter().map(|stream| stream.join().expect("no panic")).sum()
    });
    let (seconds, mib) = (begun.elapsed().as_secs_f64(), (rounds * CHUNKS) as f64);
    let cpu_ms = cpu().saturating_sub(cpu_begun).as_secs_f64() * 1e3;
    println!("{way:>12} {:>8} {:>10.0} {:>14.3}", bodies.len(), mib / seconds, cpu_ms / mib);
}

/// CPU time of the process so far, as Linux counts it, in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

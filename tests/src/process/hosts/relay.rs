//! The long line between two hosts: each sends its packets in a tunnel to the clients' side, where they are held for a while
//! and passed on in the order in which they came. So TCP at both ends sees a long way, as it is: its handshakes, windows and
//! retransmissions take round trips.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lockstep_gateway::demo::workload::Random;

/// Packets under way in one direction. Those beyond are dropped, as a router drops what it cannot hold.
const PACKETS_MAX: usize = 8192;
/// Longest packet.
const PACKET_LEN_MAX: usize = 64 << 10;
/// How soon a relay that is to end does.
const STOP_PAUSE: Duration = Duration::from_millis(50);

/// How long packets are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delay {
    /// Each of them, one way.
    pub each_way: Duration,
    /// Up to so much longer, drawn for each.
    pub jitter: Duration,
}

impl Delay {
    /// Both ways without the jitter.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.each_way * 2
    }
}

/// The two sockets at which the tunnels of the sites end, and where the sites have theirs.
#[derive(Debug)]
pub struct Ends {
    sockets: [UdpSocket; 2],
    sites: [SocketAddr; 2],
}

impl Ends {
    /// Takes a free port for each site: of each, the address of the clients on the way there, and the site's own.
    ///
    /// # Errors
    /// When there is none.
    pub fn bind(ways: [[&str; 2]; 2]) -> Result<Self, String> {
        let bind = |[clients, site]: [&str; 2]| -> Result<(UdpSocket, SocketAddr), String> {
            let socket = UdpSocket::bind((clients, 0)).map_err(|error| error.to_string())?;
            let port = socket.local_addr().map_err(|error| error.to_string())?.port();
            let site = site.parse().map_err(|_| format!("{site} is no address"))?;
            Ok((socket, SocketAddr::new(site, port)))
        };
        let [a, b] = ways.map(bind);
        let ((socket_a, site_a), (socket_b, site_b)) = (a?, b?);
        Ok(Self { sockets: [socket_a, socket_b], sites: [site_a, site_b] })
    }

    /// The ports, which the ends of a tunnel have in common.
    #[must_use]
    pub fn ports(&self) -> [u16; 2] {
        self.sites.map(|site| site.port())
    }

    /// Carries packets from now on.
    ///
    /// # Errors
    /// When the system has no more sockets or threads.
    pub fn carry(self) -> Result<Relay, String> {
        let (delay, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let mut relay = Relay { delay, stop, threads: Vec::new() };
        let [a, b] = &self.sockets;
        for (from, to, site) in [(a, b, self.sites[1]), (b, a, self.sites[0])] {
            relay.direction(from, to, site).map_err(|error| format!("no relay: {error}"))?;
        }
        Ok(relay)
    }
}

/// What carries packets between two sites. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    delay: Arc<Mutex<Delay>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Says how long the packets that come from now on are under way.
    pub fn set(&self, delay: Delay) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    fn direction(&mut self, from: &UdpSocket, to: &UdpSocket, site: SocketAddr) -> io::Result<()> {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        from.set_read_timeout(Some(STOP_PAUSE))?;
        let (under_way, arriving) = sync_channel(PACKETS_MAX);
        let (delay, stop) = (Arc::clone(&self.delay), Arc::clone(&self.stop));
        let seed = u64::from(site.port());
        self.threads.push(thread::Builder::new().spawn(move || take(&from, &under_way, &delay, &stop, seed))?);
        self.threads.push(thread::Builder::new().spawn(move || give(&to, &arriving, site))?);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Takes the packets of a site and says when each of them is due.
fn take(
    from: &UdpSocket,
    under_way: &SyncSender<(Instant, Vec<u8>)>,
    delay: &Mutex<Delay>,
    stop: &AtomicBool,
    seed: u64,
) {
    let (mut random, mut last_due) = (Random::new(seed), Instant::now());
    let mut packet = vec![0; PACKET_LEN_MAX];
    while !stop.load(Ordering::Relaxed) {
        let Ok(len) = from.recv(&mut packet) else { continue };
        let Delay { each_way, jitter } = *delay.lock().unwrap_or_else(PoisonError::into_inner);
        let late = Duration::from_micros(random.below(jitter.as_micros() as u64 + 1));
        // On one way nobody overtakes.
        last_due = last_due.max(Instant::now() + each_way + late);
        let _full = under_way.try_send((last_due, packet[..len].to_vec()));
    }
}

/// Gives them to the other site when they are due.
fn give(to: &UdpSocket, arriving: &Receiver<(Instant, Vec<u8>)>, site: SocketAddr) {
    while let Ok((due, packet)) = arriving.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A site whose port is down takes none.
        let _lost = to.send_to(&packet, site);
    }
}

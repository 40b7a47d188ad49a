//! The link between two processes as a TCP proxy. A cut holds bytes back and closes nothing, as a network does that drops
//! packets: whoever waits at the ends waits, and when it heals everything arrives, also on connections that both ends have
//! given up since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Bytes taken from a socket at once.
const PIECE_LEN: usize = 64 << 10;
/// Pieces under way in one direction of a connection: what the wire holds.
const PIECES_MAX: usize = 256;

/// What the wire does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Bytes go from the one who connects to the one who listens.
    pub forth: bool,
    /// Bytes go back.
    pub back: bool,
    /// How long each takes, one way.
    pub delay: Duration,
}

impl Wire {
    /// Everything passes.
    pub const WHOLE: Self = Self { forth: true, back: true, delay: Duration::ZERO };
}

/// A proxy on a free port. It ends when it is dropped.
pub struct Proxy {
    /// Where to connect: host and port.
    pub address: String,
    wire: Arc<watch::Sender<Wire>>,
    carried: Arc<AtomicU64>,
    /// Changes when the connections that stand are to break.
    breaks: Arc<watch::Sender<()>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// A whole wire to `target`, host and port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn new(target: &str) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?.to_string();
        let wire = Arc::new(watch::Sender::new(Wire::WHOLE));
        let (carried, breaks) = (Arc::<AtomicU64>::default(), Arc::new(watch::Sender::new(())));
        let mut accepting = JoinSet::new();
        let way = Way { wire: Arc::clone(&wire), carried: Arc::clone(&carried), breaks: Arc::clone(&breaks) };
        accepting.spawn(accept(listener, target.to_owned(), way));
        Ok(Self { address, wire, carried, breaks, _accepting: accepting })
    }

    /// Bytes that were delivered so far, both ways.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Breaks every connection that stands. New ones are taken at once.
    pub fn reset(&self) {
        self.breaks.send_replace(());
    }

    /// Makes the wire so.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

/// What every connection of a proxy shares.
#[derive(Clone)]
struct Way {
    wire: Arc<watch::Sender<Wire>>,
    carried: Arc<AtomicU64>,
    breaks: Arc<watch::Sender<()>>,
}

async fn accept(listener: TcpListener, target: String, way: Way) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connect(near, target.clone(), way.clone()));
    }
}

/// One connection. Where nobody listens behind the proxy, it is closed, as if nobody listened here.
async fn connect(near: TcpStream, target: String, way: Way) {
    let mut breaks = way.breaks.subscribe();
    let (wire, carried) = (way.wire.subscribe(), way.carried);
    let Ok(far) = TcpStream::connect(&target).await else { return };
    let _best_effort = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let forth = carry(near_in, far_out, wire.clone(), |wire| wire.forth, &carried);
    let back = carry(far_in, near_out, wire, |wire| wire.back, &carried);
    // Either end's death ends both directions, once what was under way has arrived.
    tokio::select! {
        () = forth => {}
        () = back => {}
        _ = breaks.changed() => {}
    }
}

/// Carries bytes in one direction until its sender has closed and all has been delivered.
async fn carry(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    open: fn(&Wire) -> bool,
    carried: &AtomicU64,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reading = read(from, sender, wire.clone());
    let writing = async {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            if wire.wait_for(open).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
            carried.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = writing => {}
        () = async {
            reading.await;
            std::future::pending::<()>().await;
        } => {}
    }
}

async fn read(mut from: OwnedReadHalf, sender: mpsc::Sender<(Instant, Vec<u8>)>, wire: watch::Receiver<Wire>) {
    loop {
        let mut piece = vec![0; PIECE_LEN];
        let Ok(len) = from.read(&mut piece).await else { return };
        piece.truncate(len);
        let due = Instant::now() + wire.borrow().delay;
        if len == 0 || sender.send((due, piece)).await.is_err() {
            return;
        }
    }
}

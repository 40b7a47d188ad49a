//! Two nodes with links in one process, and what tests say to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lockstep_mirror::event::{Connection, Event};
use lockstep_mirror::link::{Held, LinkHandle, LinkOptions, Secret};
use lockstep_mirror::message::{Append, Message};
use lockstep_mirror::plan::{AckLevel, Limits, NodePlan, OriginPlan, Policy, StreamPlan};
use lockstep_storage::id::{Epoch, NodeId, Origin, Position, Seq};
use lockstep_storage::op::{Data, Mutation};
use lockstep_storage::record::{Draft, Place, Record};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn name(text: &str) -> Origin {
    Origin::new(text).expect("a name")
}

pub(crate) fn options() -> LinkOptions {
    LinkOptions::new(Secret::new("a secret of both").expect("not empty"))
}

/// What a node is for one origin: where its stream goes, if it has one.
pub(crate) fn plan(node: &str, origins: &[(&str, Option<(&str, String)>)]) -> NodePlan {
    let origin = |(origin, stream): &(&str, Option<(&str, String)>)| OriginPlan {
        origin: name(origin),
        nvram_len: 1 << 20,
        stream: stream.as_ref().map(|(destination, url)| StreamPlan {
            destination: name(destination),
            url: url.clone(),
            policy: Policy::Sync,
            ack: AckLevel::Durable,
            link_timeout: Duration::from_secs(5),
            sync_interval: Duration::from_secs(10),
            backlog_limit: 1 << 30,
            baseline_rate: 1 << 30,
        }),
    };
    let origins = origins.iter().map(origin).collect();
    NodePlan { node: name(node), origins, bootstrap: Vec::new(), limits: Limits::default() }
}

/// A node that is nothing but its link.
pub(crate) struct Site {
    pub link: LinkHandle,
    pub events: mpsc::UnboundedReceiver<(Event, Held)>,
    pub stop: CancellationToken,
    numbers: Arc<AtomicU64>,
}

impl Site {
    pub(crate) fn new(plan: &NodePlan, options: LinkOptions) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let numbers = Arc::new(AtomicU64::new(1));
        let counter = numbers.clone();
        let next = move || Connection(counter.fetch_add(1, Ordering::Relaxed));
        let deliver = move |event, held| {
            let _test_is_over = sender.send((event, held));
        };
        let link = LinkHandle::new(plan, options, Handle::current(), next, deliver);
        Self { link, events, stop: CancellationToken::new(), numbers }
    }

    /// Listens on a free port.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (link, stop) = (self.link.clone(), self.stop.clone());
        tokio::spawn(async move { link.serve(listener, stop).await });
        addr
    }

    /// Opens the stream of an origin; gives its number.
    pub(crate) fn connect(&self, origin: &str) -> Connection {
        let connection = Connection(self.numbers.fetch_add(1, Ordering::Relaxed));
        self.link.connect(&name(origin), connection, 0);
        connection
    }

    pub(crate) async fn next(&mut self) -> (Event, Held) {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the link lives")
    }

    pub(crate) async fn connected(&mut self) -> Connection {
        match self.next().await.0 {
            Event::Connected { connection, .. } => connection,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn disconnected(&mut self, expected: Connection) -> String {
        match self.next().await.0 {
            Event::Disconnected { connection, reason, .. } if connection == expected => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn received(&mut self) -> Message {
        match self.next().await.0 {
            Event::Received { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }
}

/// A stream of `site-a` to `site-b` that stands.
pub(crate) struct Pair {
    pub a: Site,
    pub b: Site,
    /// Its number at `a`.
    pub at_a: Connection,
    /// Its number at `b`.
    pub at_b: Connection,
}

impl Pair {
    pub(crate) async fn new(options_of_a: LinkOptions, options_of_b: LinkOptions) -> Self {
        let b = Site::new(&plan("site-b", &[("site-b", None), ("site-a", None)]), options_of_b);
        let addr = b.listen().await;
        Self::through(addr, options_of_a, b).await
    }

    /// The same where `b` is reached by another address.
    pub(crate) async fn through(addr: SocketAddr, options_of_a: LinkOptions, mut b: Site) -> Self {
        let stream = Some(("site-b", format!("http://{addr}")));
        let mut a = Site::new(&plan("site-a", &[("site-a", stream)]), options_of_a);
        let opened = a.connect("site-a");
        let at_a = a.connected().await;
        assert_eq!(at_a, opened);
        let at_b = b.connected().await;
        Self { a, b, at_a, at_b }
    }

    pub(crate) fn send_from_a(&self, message: Message) {
        self.a.link.send(&name("site-a"), self.at_a, message);
    }

    pub(crate) fn send_from_b(&self, message: Message) {
        self.b.link.send(&name("site-a"), self.at_b, message);
    }
}

/// A record of any payload.
pub(crate) fn record(seq: u64, payload: Bytes) -> Record {
    let epoch = Epoch { counter: 1, node: NodeId(5) };
    let parent = Position { epoch, seq: Seq(seq - 1), checksum: seq };
    let place = Place { parent, epoch, committed: Seq(0), persisted: Seq(0), time_ms: 1 };
    Draft::new(Mutation::Data(Data::default()), payload).expect("small").place(&place)
}

pub(crate) fn append(records: Vec<Record>) -> Message {
    Message::Append(Append { committed: Seq(1), persisted: Seq(2), records })
}

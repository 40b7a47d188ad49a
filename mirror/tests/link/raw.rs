//! A visitor at the mirror listener that speaks HTTP/2 and signs by itself: an oracle for the handshake, and whoever might
//! want to abuse it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// What a visitor claims, and what it sends in spite of it.
pub(crate) struct Claimed {
    pub nonce: String,
    pub path_origin: &'static str,
    pub sent_node: &'static str,
    pub unix_seconds: u64,
}

impl Claimed {
    /// What `site-a` says, but for the nonce.
    pub(crate) fn good() -> Self {
        Self { nonce: String::new(), path_origin: "site-a", sent_node: "site-a", unix_seconds: 1_800_000_000 }
    }
}

/// An open stream: dropping it ends it.
pub(crate) struct Stream {
    sender: Option<mpsc::UnboundedSender<Bytes>>,
    _response: Response<Incoming>,
}

impl Stream {
    pub(crate) fn send(&mut self, bytes: Bytes) {
        self.sender.as_ref().expect("not ended").send(bytes).expect("it is read");
    }

    pub(crate) fn end(&mut self) {
        self.sender = None;
    }
}

pub(crate) struct Visitor {
    requests: SendRequest<Outgoing>,
    /// Ends the connection with the visitor.
    tasks: tokio::task::JoinSet<()>,
}

fn empty() -> Outgoing {
    http_body_util::Empty::new().boxed_unsync()
}

impl Visitor {
    pub(crate) async fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let _ended = connection.await;
        });
        Self { requests, tasks }
    }

    async fn request(&mut self, request: Request<Outgoing>) -> Response<Incoming> {
        assert!(!self.tasks.is_empty());
        self.requests.ready().await.expect("the connection stands");
        self.requests.send_request(request).await.expect("an answer")
    }

    pub(crate) async fn post(&mut self, path: &str) -> u16 {
        let request = Request::post(format!("http://site-b{path}")).body(empty()).expect("a request");
        self.request(request).await.status().as_u16()
    }

    pub(crate) async fn nonce(&mut self) -> String {
        let request = Request::post("http://site-b/v1/nonce").body(empty()).expect("a request");
        let response = self.request(request).await;
        assert_eq!(response.status(), 200);
        response.headers()["x-lockstep-nonce"].to_str().expect("text").to_owned()
    }

    /// Signs as `site-a` for the stream of `site-a` to `site-b`, whatever is then sent.
    pub(crate) async fn open(&mut self, claimed: &Claimed) -> (u16, Stream) {
        let identity = Credentials::new("site-a", "a secret of both", None, None, "test").into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("lockstep")
            .name("lockstep-mirror")
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(claimed.unix_seconds))
            .settings(SigningSettings::default())
            .build()
            .expect("complete")
            .into();
        let headers = [
            ("x-lockstep-node", "site-a"),
            ("x-lockstep-peer", "site-b"),
            ("x-lockstep-origin", "site-a"),
            ("x-lockstep-nonce", claimed.nonce.as_str()),
        ];
        let uri = "http://site-b/v1/stream/site-a";
        let signable = SignableRequest::new("POST", uri, headers.into_iter(), SignableBody::UnsignedPayload);
        let (instructions, _) = sign(signable.expect("a request"), &params).expect("signed").into_parts();

        let (sender, mut receiver) = mpsc::unbounded_channel();
        let pieces = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let body = StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync();
        let uri = format!("http://site-b/v1/stream/{}", claimed.path_origin);
        let mut request = Request::post(uri).body(body).expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        request.headers_mut().insert("x-lockstep-node", claimed.sent_node.parse().expect("a value"));
        instructions.apply_to_request_http1x(&mut request);
        let response = self.request(request).await;
        (response.status().as_u16(), Stream { sender: Some(sender), _response: response })
    }
}

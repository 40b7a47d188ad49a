//! The way of a body from a request into the log: cut into chunks, digested in one pass, each chunk a record.
//!
//! Memory is bounded whatever the object's size: one chunk being gathered, one being digested, and a few on their way.
//! Digests and record checksums of large bodies are computed on blocking threads while the next chunk is gathered. A body
//! that no op takes over is given up by an `AbandonBody` record: its guard sees to that, also when the client goes away.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lockstep_mirror::client::{Client, Refusal, Submitted};
use lockstep_mirror::plan::AckLevel;
use lockstep_storage::id::{BodyId, Origin};
use lockstep_storage::op::{AbandonBody, CHUNK_LEN, Data, Extent, INLINE_LEN_MAX, Mutation};
use lockstep_storage::record::{Draft, RecordError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::digest::{Algorithm, DigestPool, Digester, Digests};
use super::error::{Code, S3Error};
use super::payload::Payload;

/// Chunks of one request that are submitted and not yet committed.
const IN_FLIGHT_MAX: usize = 4;

/// Where pieces of a body come from.
pub trait Source: Send {
    /// The length in bytes, where it is known before.
    fn len_hint(&self) -> Option<u64>;

    /// The next piece; none when everything has come and is verified.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, S3Error>> + Send;
}

impl Source for Payload {
    fn len_hint(&self) -> Option<u64> {
        self.declared_len()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        Payload::next(self).await
    }
}

/// Where a body goes.
#[derive(Clone)]
pub struct Target {
    /// The log.
    pub client: Client,
    /// Whose history.
    pub origin: Origin,
    /// The ack level that the request asks for.
    pub require: Option<AckLevel>,
    /// Where large bodies are digested.
    pub digests: DigestPool,
}

/// What to do with a body.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Checksums to compute beside the MD5.
    pub algorithms: Vec<Algorithm>,
    /// Whether a small body may stay in memory to travel with its op. Parts may not.
    pub inline: bool,
    /// Longest body, in bytes; beyond it `EntityTooLarge`.
    pub len_max: u64,
}

/// A body that has been read to its end and verified, as far as the protocol can.
#[must_use = "a body that no op takes over is given up"]
pub struct Uploaded {
    /// Length in bytes.
    pub len: u64,
    /// Its digests.
    pub digests: Digests,
    /// The bytes of a small body; empty otherwise.
    pub inline: Bytes,
    /// Where the bytes of a large body are; none for an inline or empty one.
    pub extent: Option<Extent>,
    /// Gives the body up unless an op took it over.
    pub guard: BodyGuard,
}

/// Gives a body up when dropped, unless [`BodyGuard::keep`] was called.
#[must_use = "dropping it gives the body up"]
pub struct BodyGuard(Option<Open>);

struct Open {
    target: Target,
    body: BodyId,
    runtime: Handle,
}

impl BodyGuard {
    /// Guards nothing.
    pub fn none() -> Self {
        Self(None)
    }

    fn new(target: Target, body: BodyId) -> Self {
        Self(Some(Open { target, body, runtime: Handle::current() }))
    }

    /// An op in the log refers to the body now.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for BodyGuard {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.runtime.clone().spawn(abandon(open.target, open.body));
        }
    }
}

/// Tries until it is in the log, or this node cannot write any more: then the next epoch's first record gives it up.
async fn abandon(target: Target, body: BodyId) {
    loop {
        let mutation = Mutation::AbandonBody(AbandonBody { body: body.into() });
        let Ok(draft) = Draft::new(mutation, Bytes::new()) else { return };
        let wait_s = match target.client.submit(&target.origin, draft, None).await {
            Err(Refusal::Unavailable { retry_after_s, .. }) => retry_after_s.clamp(1, 60),
            Err(Refusal::NoSpace { .. }) => 10,
            Ok(_) | Err(_) => return,
        };
        tokio::time::sleep(Duration::from_secs(wait_s.into())).await;
    }
}

/// Reads a body to its end: into memory if it is small, else into the log.
///
/// # Errors
/// What the source says, `EntityTooLarge`, and refusals of the log. What was logged of the body is then given up.
pub async fn upload<S: Source>(target: &Target, source: &mut S, plan: &Plan) -> Result<Uploaded, S3Error> {
    if source.len_hint().is_some_and(|len| len > plan.len_max) {
        return Err(too_large(plan.len_max));
    }
    let mut chunker = Chunker::new(source.len_hint());
    let mut writer = BodyWriter::new(target, &plan.algorithms);
    while let Some(mut piece) = source.next().await? {
        if chunker.len + piece.len() as u64 > plan.len_max {
            return Err(too_large(plan.len_max));
        }
        while let Some(chunk) = chunker.push(&mut piece) {
            writer.put(chunk).await?;
        }
    }
    let len = chunker.len;
    let rest = chunker.finish();
    if plan.inline && len <= INLINE_LEN_MAX as u64 {
        let mut digester = Digester::new(&plan.algorithms);
        digester.update(&rest);
        return Ok(Uploaded { len, digests: digester.finish(), inline: rest, extent: None, guard: BodyGuard::none() });
    }
    if !rest.is_empty() {
        writer.put(rest).await?;
    }
    let (digests, body, guard) = writer.finish().await?;
    let extent = body.map(|body| Extent { body: body.into(), len, chunk_len: CHUNK_LEN as u32, part_number: 0 });
    Ok(Uploaded { len, digests, inline: Bytes::new(), extent, guard })
}

fn too_large(len_max: u64) -> S3Error {
    S3Error::from(Code::EntityTooLarge).with_detail("MaxSizeAllowed", len_max.to_string())
}

/// Gathers pieces of any size into chunks of exactly [`CHUNK_LEN`] bytes and a rest.
struct Chunker {
    gathered: BytesMut,
    /// The only piece so far, if there is one: a body that comes in one small piece is never copied.
    single: Bytes,
    /// Bytes taken in all.
    len: u64,
    expected: Option<u64>,
}

impl Chunker {
    fn new(expected: Option<u64>) -> Self {
        Self { gathered: BytesMut::new(), single: Bytes::new(), len: 0, expected }
    }

    /// Takes from the front of `piece`: all of it, or what completes a chunk, which is returned. Call again until none
    /// is returned.
    fn push(&mut self, piece: &mut Bytes) -> Option<Bytes> {
        if piece.is_empty() {
            return None;
        }
        if self.gathered.is_empty() && self.single.is_empty() && piece.len() <= CHUNK_LEN {
            self.len += piece.len() as u64;
            self.single = std::mem::take(piece);
            return (self.single.len() == CHUNK_LEN).then(|| std::mem::take(&mut self.single));
        }
        if self.gathered.is_empty() {
            self.reserve(piece.len());
        }
        let single = std::mem::take(&mut self.single);
        self.gathered.extend_from_slice(&single);
        let fits = piece.len().min(CHUNK_LEN - self.gathered.len());
        self.gathered.extend_from_slice(&piece.split_to(fits));
        self.len += fits as u64;
        (self.gathered.len() == CHUNK_LEN).then(|| std::mem::take(&mut self.gathered).freeze())
    }

    /// Memory for the next chunk at once, so that it never moves: as much as is known to come.
    fn reserve(&mut self, at_hand: usize) {
        let gathered = self.single.len() as u64;
        let known = self.expected.map(|expected| expected.saturating_sub(self.len) + gathered);
        let len = known.unwrap_or(CHUNK_LEN as u64).max(at_hand as u64 + gathered).min(CHUNK_LEN as u64);
        self.gathered.reserve(usize::try_from(len).unwrap_or(CHUNK_LEN));
    }

    fn finish(self) -> Bytes {
        if self.single.is_empty() { self.gathered.freeze() } else { self.single }
    }
}

/// Digests, away from the reactor.
enum Hashing {
    Idle(Digester),
    Busy(oneshot::Receiver<Digester>),
    Lost,
}

impl Hashing {
    async fn take(&mut self) -> Result<Digester, S3Error> {
        match std::mem::replace(self, Self::Lost) {
            Self::Idle(digester) => Ok(digester),
            Self::Busy(done) => done.await.map_err(|_| Code::InternalError.into()),
            Self::Lost => Err(Code::InternalError.into()),
        }
    }
}

/// Writes chunks as `Data` records of one body.
struct BodyWriter<'a> {
    target: &'a Target,
    hashing: Hashing,
    body: Option<BodyId>,
    guard: BodyGuard,
    index: u32,
    in_flight: VecDeque<Submitted>,
}

impl<'a> BodyWriter<'a> {
    fn new(target: &'a Target, algorithms: &[Algorithm]) -> Self {
        let hashing = Hashing::Idle(Digester::new(algorithms));
        Self { target, hashing, body: None, guard: BodyGuard::none(), index: 0, in_flight: VecDeque::new() }
    }

    async fn put(&mut self, chunk: Bytes) -> Result<(), S3Error> {
        let draft = self.draft(chunk).await?;
        if self.in_flight.len() == IN_FLIGHT_MAX
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.done().await?;
        }
        // A chunk need only have a mirror; the level that was asked for is the op's, which comes after it.
        let require = self.target.require.map(|_| AckLevel::Received);
        let submitted = match self.body {
            Some(_) => self.target.client.submit(&self.target.origin, draft, require).await?,
            None => self.open(draft, require).await?,
        };
        // A new epoch has given up every body that was open.
        if self.body.is_some_and(|body| body.epoch != submitted.epoch) {
            return Err(S3Error::unavailable("The node's epoch changed during the upload. Try again.", 1));
        }
        self.in_flight.push_back(submitted);
        self.index += 1;
        Ok(())
    }

    /// The first chunk: its place names the body. In a task of its own, so that the body is guarded from the moment on
    /// when it is in the log, even if nobody waits any more.
    async fn open(&mut self, draft: Draft, require: Option<AckLevel>) -> Result<Submitted, S3Error> {
        let target = self.target.clone();
        let opened = tokio::spawn(async move {
            let submitted = target.client.submit(&target.origin, draft, require).await?;
            let body = BodyId { epoch: submitted.epoch, seq: submitted.seq };
            Ok::<_, Refusal>((submitted, body, BodyGuard::new(target, body)))
        });
        let (submitted, body, guard) = opened.await.map_err(|_| Code::InternalError)??;
        self.body = Some(body);
        self.guard = guard;
        Ok(submitted)
    }

    /// Makes the record on a blocking thread, which then has the chunk digested.
    async fn draft(&mut self, chunk: Bytes) -> Result<Draft, S3Error> {
        let digester = self.hashing.take().await?;
        let mutation = Mutation::Data(Data { body: self.body.map(Into::into), index: self.index });
        let pool = self.target.digests.clone();
        let (reply, made) = oneshot::channel::<Result<Draft, RecordError>>();
        let (done, answer) = oneshot::channel();
        self.hashing = Hashing::Busy(answer);
        tokio::task::spawn_blocking(move || {
            // Nobody waits for it when the request is gone.
            let _gone = reply.send(Draft::new(mutation, chunk.clone()));
            pool.update(digester, chunk, done);
        });
        let draft = made.await.map_err(|_| Code::InternalError)?;
        draft.map_err(|_| Code::InternalError.into())
    }

    /// Chunks on their way are not waited for: the op that refers to the body is committed after them or not at all.
    async fn finish(mut self) -> Result<(Digests, Option<BodyId>, BodyGuard), S3Error> {
        let digests = self.hashing.take().await?.finish();
        Ok((digests, self.body, self.guard))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunks(pieces: &[usize], expected: Option<u64>) -> (Vec<Bytes>, Bytes, Vec<u8>) {
        let mut chunker = Chunker::new(expected);
        let (mut out, mut sent) = (Vec::new(), Vec::new());
        for (number, len) in pieces.iter().enumerate() {
            let mut piece = Bytes::from(vec![number as u8; *len]);
            sent.extend_from_slice(&piece);
            while let Some(chunk) = chunker.push(&mut piece) {
                out.push(chunk);
            }
            assert!(piece.is_empty(), "a piece is taken whole");
        }
        assert_eq!(chunker.len, sent.len() as u64);
        (out, chunker.finish(), sent)
    }

    fn lens() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..70_000, Just(CHUNK_LEN), Just(CHUNK_LEN - 1), Just(CHUNK_LEN + 1), Just(2 * CHUNK_LEN + 7)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn pieces_of_any_size_become_full_chunks_and_a_rest(pieces in prop::collection::vec(lens(), 0..12), hint in any::<bool>()) {
            let expected = hint.then(|| pieces.iter().sum::<usize>() as u64);
            let (full, rest, sent) = chunks(&pieces, expected);
            prop_assert!(full.iter().all(|chunk| chunk.len() == CHUNK_LEN));
            prop_assert!(rest.len() < CHUNK_LEN);
            let mut got = full.concat();
            got.extend_from_slice(&rest);
            prop_assert!(got == sent);
        }
    }

    #[test]
    fn a_single_small_piece_is_not_copied() {
        let mut chunker = Chunker::new(None);
        let piece = Bytes::from(vec![1; 1000]);
        assert!(chunker.push(&mut piece.clone()).is_none());
        assert_eq!(chunker.finish().as_ptr(), piece.as_ptr());
    }
}

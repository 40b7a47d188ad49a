//! A SHA-256 that runs beside the reader: large pieces are hashed on a blocking thread while the next one is on its way and
//! the caller works on this one.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::s3::error::{Code, S3Error};

/// Pieces from here on, in bytes, are worth a hand-over: it costs about ten microseconds, hashing this much about forty.
const AWAY_MIN: usize = 64 << 10;

/// A running SHA-256.
#[derive(Default)]
pub(super) struct Hasher {
    here: Option<Sha256>,
    away: Option<JoinHandle<Sha256>>,
}

impl Hasher {
    /// Takes in a piece. Waits for the one before, not for this one.
    pub(super) async fn update(&mut self, piece: &Bytes) -> Result<(), S3Error> {
        let mut state = self.state().await?;
        if piece.len() < AWAY_MIN {
            state.update(piece);
            self.here = Some(state);
        } else {
            let piece = piece.clone();
            self.away = Some(tokio::task::spawn_blocking(move || {
                state.update(&piece);
                state
            }));
        }
        Ok(())
    }

    /// The digest of all pieces.
    pub(super) async fn finish(&mut self) -> Result<[u8; 32], S3Error> {
        Ok(self.state().await?.finalize().into())
    }

    async fn state(&mut self) -> Result<Sha256, S3Error> {
        match self.away.take() {
            // A blocking task fails only when the runtime is going down.
            Some(task) => task.await.map_err(|_| Code::InternalError.into()),
            None => Ok(self.here.take().unwrap_or_default()),
        }
    }
}

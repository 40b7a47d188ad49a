//! Signing keys of the day, kept so that a request costs one HMAC and not five.
//!
//! A key is kept under its whole credential (access key, day, region, service) together with the secret that it was made
//! of: a removed or changed secret is found in the image at every request, and then the kept key does not count.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use subtle::ConstantTimeEq;

use super::Claim;

/// Most keys that are kept. Presigned URLs of other days take places too.
const KEYS_MAX: usize = 4096;

struct Kept {
    secret: String,
    key: [u8; 32],
}

/// A bounded store of signing keys.
#[derive(Default)]
pub struct SigningKeys {
    kept: RwLock<HashMap<String, Kept>>,
}

impl SigningKeys {
    /// The signing key for a claim, of this secret.
    pub(super) fn get(&self, claim: &Claim<'_>, secret: &str) -> [u8; 32] {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.get(claim.credential)
            && bool::from(found.secret.as_bytes().ct_eq(secret.as_bytes()))
        {
            return found.key;
        }
        drop(kept);
        let time = claim.timestamp.system_time();
        let derived = aws_sigv4::sign::v4::generate_signing_key(secret, time, claim.region, super::SERVICE);
        let mut key = [0; 32];
        key.copy_from_slice(derived.as_ref());
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEYS_MAX {
            // Rare, and each key costs microseconds to make again: no need to know which one was used last.
            kept.clear();
        }
        kept.insert(claim.credential.to_owned(), Kept { secret: secret.to_owned(), key });
        key
    }
}

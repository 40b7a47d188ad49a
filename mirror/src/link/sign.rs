//! The signature that opens a stream: AWS Signature Version 4 over the nonce, both nodes' names and the origin, with the
//! mirror secret. The listener signs the same claims again and compares. The nonce, good once and on its connection only,
//! is the freshness; the date is part of the signature but is not judged, because clocks drift between sites.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign as sign_request};
use aws_sigv4::sign::v4;
use subtle::ConstantTimeEq;
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::{HEADER_NODE, HEADER_NONCE, HEADER_ORIGIN, HEADER_PEER, Secret};

const SERVICE: &str = "lockstep-mirror";
const REGION: &str = "lockstep";

/// What the opener claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'a> {
    /// Its own name; the access key.
    pub(super) node: &'a str,
    /// Whom it means to reach.
    pub(super) peer: &'a str,
    /// Whose stream.
    pub(super) origin: &'a str,
    /// What the listener gave it.
    pub(super) nonce: &'a str,
}

/// The headers that carry a signature.
#[derive(Debug)]
pub(super) struct Signature {
    /// `authorization`.
    pub(super) authorization: String,
    /// `x-amz-date`.
    pub(super) date: String,
}

/// Signs the claims. None only for claims that are no header values or when the signer refuses; names never are.
pub(super) fn sign(secret: &Secret, claims: Claims<'_>, time: SystemTime) -> Option<Signature> {
    let identity = Credentials::new(claims.node, &*secret.0, None, None, "mirror").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name(SERVICE)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    let headers = [
        (HEADER_NODE, claims.node),
        (HEADER_PEER, claims.peer),
        (HEADER_ORIGIN, claims.origin),
        (HEADER_NONCE, claims.nonce),
    ];
    // The peer's name stands for the host: an address may be another one behind a proxy.
    let uri = format!("http://{}/v1/stream/{}", claims.peer, claims.origin);
    let request = SignableRequest::new("POST", uri, headers.into_iter(), SignableBody::UnsignedPayload).ok()?;
    let (signed, _) = sign_request(request, &params).ok()?.into_parts();
    let header = |name: &str| signed.headers().find(|(n, _)| *n == name).map(|(_, value)| value.to_owned());
    Some(Signature { authorization: header("authorization")?, date: header("x-amz-date")? })
}

/// Is this the signature of the claims, whenever it was made? The comparison takes the same time wherever they differ.
pub(super) fn verify(secret: &Secret, claims: Claims<'_>, presented: &Signature) -> bool {
    let Some(time) = parse_date(&presented.date) else { return false };
    let Some(expected) = sign(secret, claims, time) else { return false };
    expected.authorization.as_bytes().ct_eq(presented.authorization.as_bytes()).into()
}

/// The moment of an `x-amz-date`.
fn parse_date(date: &str) -> Option<SystemTime> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    Some(PrimitiveDateTime::parse(date, format).ok()?.assume_utc().into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLAIMS: Claims<'_> = Claims { node: "site-a", peer: "site-b", origin: "site-a", nonce: "n1" };

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("not empty")
    }

    fn signed(claims: Claims<'_>) -> Signature {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        sign(&secret("one"), claims, time).expect("plain names")
    }

    #[test]
    fn the_same_claims_and_secret_verify_whatever_the_date() {
        let signature = signed(CLAIMS);
        assert_eq!(signature.date, "20231114T221320Z");
        assert!(verify(&secret(" one\n"), CLAIMS, &signature));
    }

    #[test]
    fn another_secret_claim_or_date_does_not() {
        assert!(!verify(&secret("two"), CLAIMS, &signed(CLAIMS)));
        let others = [
            Claims { node: "site-c", ..CLAIMS },
            Claims { peer: "site-c", ..CLAIMS },
            Claims { origin: "site-c", ..CLAIMS },
            Claims { nonce: "n2", ..CLAIMS },
        ];
        for other in others {
            assert!(!verify(&secret("one"), CLAIMS, &signed(other)), "{other:?}");
        }
        for date in ["20231114T221321Z", "", "yesterday", "99999999T999999Z"] {
            assert!(!verify(&secret("one"), CLAIMS, &Signature { date: date.into(), ..signed(CLAIMS) }), "{date}");
        }
        let none = Signature { authorization: String::new(), ..signed(CLAIMS) };
        assert!(!verify(&secret("one"), CLAIMS, &none));
    }
}

//! `lockstep record`: one record of a container, and what is wrong with it.

use std::fmt::Write;

use clap::Args;
use http::Method;

use super::client::AdminClient;
use super::verbs::{parsed, pretty};
use crate::admin::record::RecordView;

/// `lockstep record ORIGIN SEQ`
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// Whose
    origin: String,
    /// Its place: status says which one cannot be applied
    seq: u64,
    /// As JSON, with the bytes of its header where it cannot be read
    #[arg(long)]
    json: bool,
}

/// What the command prints.
pub(super) async fn run(args: &RecordArgs, client: &AdminClient) -> Result<String, String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("origin", &args.origin).append_pair("seq", &args.seq.to_string());
    let value = client.call(Method::GET, &format!("/v1/record?{}", query.finish()), None).await?;
    if args.json { Ok(pretty(&value)) } else { Ok(text(&parsed(value)?)) }
}

fn text(record: &RecordView) -> String {
    let applied = if record.applied { "applied" } else { "not applied" };
    let mut out = format!("record {} of {}: {} bytes, {applied}\n", record.seq, record.origin, record.stored_bytes);
    // Writing to a String cannot fail.
    if let Some(damage) = &record.damage {
        let _ = writeln!(out, "  cannot be used: {damage}");
    }
    let Some(op) = &record.op else { return out };
    let _ = writeln!(out, "  {} under epoch {} at {}", op.kind, op.epoch, op.time);
    let named = [
        ("bucket", op.bucket.clone()),
        ("key", op.key.as_ref().map(|key| key.escape_debug().to_string())),
        ("name", op.name.as_ref().map(|name| name.escape_debug().to_string())),
        ("upload", op.upload_id.clone()),
        ("part", op.part_number.map(|part| part.to_string())),
        ("body", op.body_id.clone()),
        ("chunk", op.chunk.map(|chunk| chunk.to_string())),
        ("bytes", op.len.map(|len| len.to_string())),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name:<7} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::op::OpView;

    #[test]
    fn what_is_wrong_stands_beside_what_can_be_read() {
        let op = OpView {
            kind: "put_object".into(),
            epoch: "1-4796d49f".into(),
            time: "2026-01-01T00:00:00Z".into(),
            bucket: Some("bk".into()),
            key: Some("a\nb".into()),
            ..OpView::default()
        };
        let record =
            RecordView { origin: "site-a".into(), seq: 7, stored_bytes: 90, op: Some(op), ..Default::default() };
        assert_eq!(
            text(&record),
            "record 7 of site-a: 90 bytes, not applied\n  put_object under epoch 1-4796d49f at 2026-01-01T00:00:00Z\n  \
             bucket  bk\n  key     a\\nb\n"
        );
        let damaged = RecordView { op: None, damage: Some("corrupt: record 7".into()), ..record };
        assert_eq!(text(&damaged), "record 7 of site-a: 90 bytes, not applied\n  cannot be used: corrupt: record 7\n");
    }
}

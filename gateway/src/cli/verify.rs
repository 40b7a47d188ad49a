//! `lockstep verify`: the digest of an image, or the comparison of two, which names what differs.
//!
//! Where two digests are not the same, both nodes digest the range of all keys in parts; parts that are not the same are
//! cut again, and where few entries are left they are named. So memory, answers and the number of questions are bounded,
//! whatever is in the images, and what is equal is read twice at most. All answers must be of one position: images that
//! move while they are compared are not compared.

use std::cmp::Ordering;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::client::AdminClient;
use super::verbs::{parsed, pretty};
use crate::admin::verify::parts::{
    At, ENTRIES_MAX, EntriesBody, EntriesView, EntryView, NameView, PARTS_MAX, PartsBody, PartsView,
};
use crate::admin::verify::{DigestView, VerifyBody};

/// Most differences that are named.
const NAMED_MAX: usize = 100;
/// A range with no more entries is not cut again: they are named.
const NAMED_AT_ONCE: u64 = 64;
/// Most ranges that are looked at: far more than it takes to find so many differences.
const RANGES_MAX: usize = 4096;

const _: () = assert!(NAMED_AT_ONCE <= ENTRIES_MAX as u64);

/// A node whose image is looked at.
trait Looked {
    async fn parts(&self, body: &PartsBody) -> Result<PartsView, String>;
    async fn entries(&self, body: &EntriesBody) -> Result<EntriesView, String>;
}

impl Looked for AdminClient {
    async fn parts(&self, body: &PartsBody) -> Result<PartsView, String> {
        parsed(self.call(Method::POST, "/v1/verify/parts", Some(json!(body))).await?)
    }

    async fn entries(&self, body: &EntriesBody) -> Result<EntriesView, String> {
        parsed(self.call(Method::POST, "/v1/verify/entries", Some(json!(body))).await?)
    }
}

/// How an entry is not the same at both nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    /// One node does not have it.
    Missing,
    /// It is another one.
    Differs,
    /// It is the same, and the bytes of its body are others.
    BodyDiffers,
    /// Bytes of its body are damaged, missing or cannot be read.
    Damaged,
}

/// An entry that is not the same at both nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    #[serde(flatten)]
    name: NameView,
    found: Found,
    /// The node where it is missing or damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// What is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Difference {
    fn new(entry: &EntryView, found: Found) -> Self {
        Self { name: entry.name.clone(), found, at: None, reason: None }
    }

    fn text(&self) -> String {
        let at = self.at.as_deref().unwrap_or_default();
        let found = match self.found {
            Found::Missing => format!("missing at {at}"),
            Found::Differs => "differs".into(),
            Found::BodyDiffers => "the bytes of its body differ".into(),
            Found::Damaged => format!("damaged at {at}: {}", self.reason.as_deref().unwrap_or_default().escape_debug()),
        };
        format!("  {}: {found}\n", self.name)
    }
}

/// What came of it, as JSON.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Are two images the same? None where one was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    equal: Option<bool>,
    nodes: Vec<DigestView>,
    differences: Vec<Difference>,
    /// There are more differences than these.
    more: bool,
}

/// The command: what it prints when nothing is wrong.
///
/// # Errors
/// With one sentence when something is, after what is wrong has been printed; or when it cannot be known.
pub(super) async fn run(
    client: &AdminClient,
    other: Option<&AdminClient>,
    body: &VerifyBody,
    json: bool,
) -> Result<String, String> {
    let digest = async |of: &AdminClient| parsed(of.call(Method::POST, "/v1/verify", Some(json!(body))).await?);
    let here: DigestView = digest(client).await?;
    let there: Option<DigestView> = match other {
        Some(other) => Some(digest(other).await?),
        None => None,
    };
    let wrong = match &there {
        Some(there) => here.difference(there)?,
        None => here.damage(),
    };
    let Some(sentence) = wrong else {
        return Ok(match there {
            None if json => pretty(&json!(here)),
            None => here.text(),
            Some(there) if json => pretty(&json!(Outcome::new(vec![here, there], Named::default(), true))),
            Some(there) => {
                let equal = format!("the images are equal at seq {}\n", here.seq);
                here.text() + &there.text() + &equal
            }
        });
    };
    let nodes: Vec<DigestView> = std::iter::once(here).chain(there).collect();
    let sites: Vec<&AdminClient> = std::iter::once(client).chain(other).collect();
    let mut walk = Walk::new(body, &nodes);
    let walked = walk.run_through(&sites).await;
    let named = walk.named;
    let count = match named.differences.len() {
        1 => "1 difference is".to_owned(),
        all if !named.more => format!("{all} differences are"),
        first => format!("the first {first} differences are"),
    };
    if json {
        print!("{}", pretty(&json!(Outcome::new(nodes, named, false))));
    } else {
        print!("{}", nodes.iter().map(DigestView::text).collect::<String>() + &named.text());
    }
    match walked {
        Ok(()) => Err(format!("{sentence}; {count} named above")),
        Err(error) => Err(format!("{sentence}; not all of it can be named: {error}")),
    }
}

impl Outcome {
    fn new(nodes: Vec<DigestView>, named: Named, equal: bool) -> Self {
        let equal = (nodes.len() > 1).then_some(equal);
        Self { equal, nodes, differences: named.differences, more: named.more }
    }
}

/// What has been named.
#[derive(Debug, Default)]
struct Named {
    differences: Vec<Difference>,
    more: bool,
}

impl Named {
    fn text(&self) -> String {
        let mut text: String = self.differences.iter().map(Difference::text).collect();
        if self.more {
            let _infallible = writeln!(text, "  and more: only so many are named");
        }
        text
    }
}

/// Keys that are not the same at both nodes, with how many of them each has.
#[derive(Debug)]
struct Range {
    from: Option<String>,
    until: Option<String>,
    entries: Vec<u64>,
}

/// The search: ranges that are still to be looked at, those with the first keys last.
struct Walk<'a> {
    body: &'a VerifyBody,
    nodes: &'a [DigestView],
    open: Vec<Range>,
    named: Named,
}

impl<'a> Walk<'a> {
    fn new(body: &'a VerifyBody, nodes: &'a [DigestView]) -> Self {
        let entries = nodes.iter().map(|node| node.entries).collect();
        let open = vec![Range { from: None, until: None, entries }];
        Self { body, nodes, open, named: Named::default() }
    }

    /// Names what differs, until that is all or enough. `sites` are where the digests are from.
    async fn run_through<S: Looked>(&mut self, sites: &[&S]) -> Result<(), String> {
        let mut looked = 0;
        while let Some(range) = self.open.pop() {
            if self.named.differences.len() >= NAMED_MAX {
                self.named.more = true;
                return Ok(());
            }
            looked += 1;
            if looked > RANGES_MAX {
                return Err("there is no end to it".into());
            }
            if range.entries.iter().all(|entries| *entries <= NAMED_AT_ONCE) {
                self.name(range, sites).await?;
            } else {
                self.cut(&range, sites).await?;
            }
        }
        Ok(())
    }

    /// Cuts a range where the node with most of it has as many in each part, and leaves the parts that are not the same.
    async fn cut<S: Looked>(&mut self, range: &Range, sites: &[&S]) -> Result<(), String> {
        let most = range.entries.iter().copied().max().unwrap_or_default();
        let first = range.entries.iter().position(|entries| *entries == most).unwrap_or_default();
        let mut ask = PartsBody {
            origin: self.body.origin.clone(),
            deep: self.body.deep,
            from: range.from.clone(),
            until: range.until.clone(),
            every: Some(most.div_ceil(PARTS_MAX as u64)),
            before: Vec::new(),
        };
        let cut = sites[first].parts(&ask).await?;
        self.check_at(first, &cut.at)?;
        ask.every = None;
        ask.before = cut.parts.iter().filter_map(|part| part.until.clone()).collect();
        if range.until.is_some() {
            ask.before.pop();
        }
        if ask.before.is_empty() || ask.before.len() + 1 != cut.parts.len() {
            return Err(format!("{} does not cut its image in parts", self.nodes[first].node));
        }
        let mut all = vec![cut];
        for (number, site) in sites.iter().enumerate().filter(|(number, _)| *number != first) {
            let parts = site.parts(&ask).await?;
            self.check_at(number, &parts.at)?;
            if parts.parts.len() != all[0].parts.len() {
                return Err(format!("{} cuts its image otherwise", self.nodes[number].node));
            }
            all.insert(number, parts);
        }
        let from = std::iter::once(range.from.clone()).chain(ask.before.iter().cloned().map(Some));
        let until = ask.before.iter().cloned().map(Some).chain(std::iter::once(range.until.clone()));
        let mut open = Vec::new();
        for (number, (from, until)) in from.zip(until).enumerate() {
            let parts: Vec<_> = all.iter().map(|parts| &parts.parts[number]).collect();
            let numbers = |number: usize| {
                let part = parts[number];
                (part.entries, &part.checksum, part.body_bytes, &part.body_checksum)
            };
            let same = (1..parts.len()).all(|number| numbers(number) == numbers(0));
            if !same || parts.iter().any(|part| part.damaged > 0) {
                open.push(Range { from, until, entries: parts.iter().map(|part| part.entries).collect() });
            }
        }
        self.open.extend(open.into_iter().rev());
        Ok(())
    }

    async fn name<S: Looked>(&mut self, range: Range, sites: &[&S]) -> Result<(), String> {
        let ask = EntriesBody {
            origin: self.body.origin.clone(),
            deep: self.body.deep,
            from: range.from,
            until: range.until,
        };
        let mut lists = Vec::new();
        for (number, site) in sites.iter().enumerate() {
            let list = site.entries(&ask).await?;
            self.check_at(number, &list.at)?;
            let keyed = list.entries.into_iter().map(|entry| match STANDARD.decode(&entry.at) {
                Ok(key) => Ok((key, entry)),
                Err(_) => Err(format!("{} names a key that is none", self.nodes[number].node)),
            });
            let keyed = keyed.collect::<Result<Vec<_>, _>>()?;
            if list.more || !keyed.is_sorted_by(|(one, _), (next, _)| one < next) {
                return Err(format!("{} names other entries than it counted", self.nodes[number].node));
            }
            lists.push(keyed);
        }
        let mut lists = lists.into_iter();
        let here = lists.next().unwrap_or_default();
        match lists.next() {
            Some(there) => self.merge(&here, &there),
            None => here.iter().for_each(|(_, entry)| self.damage(entry, 0)),
        }
        self.named.more |= self.named.differences.len() > NAMED_MAX;
        self.named.differences.truncate(NAMED_MAX);
        Ok(())
    }

    /// Two lists of entries, in the order of their keys.
    fn merge(&mut self, here: &[(Vec<u8>, EntryView)], there: &[(Vec<u8>, EntryView)]) {
        let (mut here, mut there) = (here.iter().peekable(), there.iter().peekable());
        loop {
            let order = match (here.peek(), there.peek()) {
                (Some((one, _)), Some((other, _))) => one.cmp(other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let one = if order.is_le() { here.next() } else { None };
            let other = if order.is_ge() { there.next() } else { None };
            match (one, other) {
                (Some((_, one)), Some((_, other))) => self.pair(one, other),
                (Some((_, only)), None) => self.lonely(only, 0, 1),
                (None, Some((_, only))) => self.lonely(only, 1, 0),
                (None, None) => {}
            }
        }
    }

    fn pair(&mut self, one: &EntryView, other: &EntryView) {
        self.damage(one, 0);
        self.damage(other, 1);
        let bodies = |entry: &EntryView| (entry.body_bytes, entry.body_checksum.clone());
        let whole = one.damage.is_none() && other.damage.is_none();
        if one.checksum != other.checksum {
            self.named.differences.push(Difference::new(one, Found::Differs));
        } else if whole && bodies(one) != bodies(other) {
            self.named.differences.push(Difference::new(one, Found::BodyDiffers));
        }
    }

    /// An entry that one node has and the other has not.
    fn lonely(&mut self, entry: &EntryView, has: usize, lacks: usize) {
        self.damage(entry, has);
        let at = Some(self.nodes[lacks].node.clone());
        self.named.differences.push(Difference { at, ..Difference::new(entry, Found::Missing) });
    }

    fn damage(&mut self, entry: &EntryView, site: usize) {
        if let Some(reason) = &entry.damage {
            let (at, reason) = (Some(self.nodes[site].node.clone()), Some(reason.clone()));
            self.named.differences.push(Difference { at, reason, ..Difference::new(entry, Found::Damaged) });
        }
    }

    /// Answers belong together only where no record was applied between them.
    fn check_at(&self, site: usize, at: &At) -> Result<(), String> {
        let node = &self.nodes[site];
        if (&at.epoch, at.seq) == (&node.epoch, node.seq) {
            return Ok(());
        }
        Err(format!(
            "the image at {} went on from {}/{} to {}/{} while it was compared; run sync while nobody writes, then verify \
             again",
            node.node, node.epoch, node.seq, at.epoch, at.seq
        ))
    }
}

#[cfg(test)]
mod tests;

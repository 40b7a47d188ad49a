//! Two sites, the writers at the first one, what these were told, and the comparison that ends every round.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use lockstep_gateway::demo::audit::audit;
use lockstep_gateway::demo::client::S3Client;
use lockstep_gateway::demo::ledger::Ledger;
use lockstep_gateway::demo::make_bucket;
use lockstep_gateway::demo::sites::{Pair, Stream};
use lockstep_gateway::demo::workload::{BUCKET, Load, Mix, Progress, Random, Running};
use serde_json::Value;

use super::between::{Between, Housing};
use super::figures::Figures;

/// The origin that is written to.
pub const ORIGIN: &str = "site-a";
/// Longest time for a state to be reached that is sure to come.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Lines that a site may log in a round: some for each start, each connection and each change of state.
const LOG_LINES_MAX: usize = 150;
/// Time between two looks at something that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(5);

/// One round.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that runs a site.
    pub program: PathBuf,
    /// An empty directory.
    pub root: PathBuf,
    /// How A mirrors to B.
    pub stream: Stream,
    /// Writers at once.
    pub writers: u64,
    /// What they do.
    pub mix: Mix,
    /// Nothing fails before so many objects are there.
    pub objects: u64,
    /// How long each phase of load lasts at least; a random part of up to a half is added.
    pub load: Duration,
    /// Decides contents, order and moments.
    pub seed: u64,
    /// Where the sites run; none for this machine's loopback.
    pub housing: Option<Housing>,
}

impl Options {
    /// Does the source never answer alone?
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.stream.policy == "strict"
    }
}

/// The two sites of a round.
pub struct Scene {
    /// The sites.
    pub pair: Pair,
    /// The link.
    pub between: Between,
    /// What writers were told, while none writes.
    pub ledger: Ledger,
    /// What the round found so far.
    pub figures: Figures,
    /// Decides moments.
    pub random: Random,
    options: Options,
    phases: u64,
}

impl Scene {
    /// Both sites run and are in sync; the bucket is there.
    ///
    /// # Errors
    /// When a site does not start or the two do not come into sync.
    pub async fn open(options: &Options, can_be_cut: bool) -> Result<Self, String> {
        let mut pair = Pair::new(&options.root, &options.program)?;
        let between = Between::start(&mut pair, options, can_be_cut).await?;
        make_bucket(&pair.a).await?;
        Ok(Self {
            pair,
            between,
            ledger: Ledger::default(),
            figures: Figures::default(),
            random: Random::new(options.seed),
            options: options.clone(),
            phases: 0,
        })
    }

    /// Starts the writers at A, which go on from what they were told before.
    pub fn write(&mut self) -> Running {
        self.write_to(self.pair.a.s3.clone())
    }

    /// Starts the writers at B.
    pub fn write_at_b(&mut self) -> Running {
        self.write_to(self.pair.b.s3.clone())
    }

    fn write_to(&mut self, address: String) -> Running {
        self.phases += 1;
        let load = Load {
            address,
            key: self.pair.a.key.clone(),
            writers: self.options.writers,
            seed: self.options.seed.wrapping_add(self.phases << 32),
            mix: self.options.mix,
        };
        Running::start(&load, std::mem::take(&mut self.ledger))
    }

    /// Lets writers write until there are as many objects as the round wants, and on to a random moment.
    ///
    /// # Errors
    /// When the objects do not come.
    pub async fn some_load(&mut self, running: &Running) -> Result<(), String> {
        let objects = self.options.objects;
        self.until(running, "as many objects as wanted", |p| p.objects.load(Ordering::Relaxed) >= objects).await?;
        let load = self.options.load;
        self.moment(load, load * 3 / 2).await;
        Ok(())
    }

    /// Lets pass a time that the seed draws: when a failure happens, and how long it lasts.
    pub async fn moment(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = most.saturating_sub(least).as_millis() as u64;
        let drawn = least + Duration::from_millis(self.random.below(spread + 1));
        tokio::time::sleep(drawn).await;
        drawn
    }

    /// Waits until the writers have seen something; how long that took.
    ///
    /// # Errors
    /// When they do not in five times [`PATIENCE`].
    pub async fn until(
        &self,
        running: &Running,
        what: &str,
        seen: impl Fn(&Progress) -> bool,
    ) -> Result<Duration, String> {
        let began = Instant::now();
        while !seen(&running.progress) {
            if began.elapsed() > PATIENCE * 5 {
                return Err(format!("the writers did not see {what}: {:?}", running.progress));
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Ok(began.elapsed())
    }

    /// Stops the writers.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn rest(&mut self, running: Running) -> Result<(), String> {
        self.ledger = running.stop().await?;
        self.figures.counts = self.ledger.counts;
        Ok(())
    }

    /// How often A has connected to B in its process's life.
    ///
    /// # Errors
    /// When A does not answer.
    pub async fn connects(&self) -> Result<u64, String> {
        Ok(self.pair.a.origin(ORIGIN).await?["connects"].as_u64().unwrap_or_default())
    }

    /// Waits until A is in sync by a connection that came after its `connects`-th; how long that took.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn back_in_sync(&self, connects: u64) -> Result<Duration, String> {
        let again = |found: &Value| found["state"] == "in_sync" && found["connects"].as_u64() > Some(connects);
        self.pair.a.wait_until(ORIGIN, "in_sync again", PATIENCE, again).await
    }

    /// Both sites against the ledger and against each other, at a consistency point. Nobody writes.
    ///
    /// # Errors
    /// When a site does not answer or the sites do not come to a consistency point; differences are in the figures.
    pub async fn compare(&mut self) -> Result<(), String> {
        let (a, b) = (&self.pair.a, &self.pair.b);
        a.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
        // A promote at B would be refused, were B not to know it.
        b.wait_for(ORIGIN, "in_sync", PATIENCE).await?;
        a.operate(&["sync"]).await?;
        let token = b.token_file().display().to_string();
        let words = ["verify", ORIGIN, "--deep", "--no-repair", "--with", &b.admin, "--with-token-file", &token];
        if let Err(sentence) = a.operate(&words).await {
            self.figures.different.push(sentence);
        }
        let at_a = audit(&a.s3, &a.key, &mut self.ledger).await?;
        self.figures.add("site-a", at_a);
        let at_b = audit(&b.s3, &a.key, &mut self.ledger).await?;
        self.figures.add("site-b", at_b);
        Ok(())
    }

    /// What A says to a write now: none when it takes it, else its sentence. A refusal must say when to come again and that
    /// nothing was logged.
    ///
    /// # Errors
    /// When A does not answer.
    pub async fn refusal(&mut self) -> Result<Option<String>, String> {
        let mut client = S3Client::connect(&self.pair.a.s3, &self.pair.a.key).await?;
        let answer = client.send(Method::PUT, &format!("/{BUCKET}/probe"), Bytes::from_static(b"probe")).await?;
        if answer.status.is_success() {
            let content = client.send(Method::DELETE, &format!("/{BUCKET}/probe"), Bytes::new()).await?;
            self.figures.check(content.status.is_success(), format!("delete of a probe: {}", content.status));
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let right = answer.status == StatusCode::SERVICE_UNAVAILABLE
            && answer.headers.contains_key("retry-after")
            && !answer.headers.contains_key("x-lockstep-seq");
        self.figures.check(right, format!("a write is refused with {} {:?}: {text}", answer.status, answer.headers));
        Ok(Some(text))
    }

    /// The round is over. Whoever reads the logs later must find what happened in them: whole lines for people, and not one
    /// for every request that was refused.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn close(self) -> Result<Figures, String> {
        self.close_with(LOG_LINES_MAX)
    }

    /// As [`Scene::close`], after more failures, of which more is logged.
    ///
    /// # Errors
    /// As [`Scene::close`].
    pub fn close_with(mut self, lines_max: usize) -> Result<Figures, String> {
        self.figures.counts = self.ledger.counts;
        for site in [&self.pair.a, &self.pair.b] {
            let log = std::fs::read_to_string(&site.log).map_err(|error| error.to_string())?;
            let lines = log.lines().count();
            self.figures.check(lines <= lines_max, format!("{} logged {lines} lines", site.name));
            self.figures.check(!log.contains('\x1b'), format!("the log of {} has colour codes", site.name));
            // What is damaged with no disk to blame would be repaired, and nobody would see it.
            let words = ["ERROR", "panicked", "event=\"chunk_repaired\""];
            let alarm = log.lines().find(|line| words.iter().any(|word| line.contains(word)));
            self.figures.check(alarm.is_none(), format!("{} logged: {}", site.name, alarm.unwrap_or_default()));
        }
        Ok(self.figures)
    }
}

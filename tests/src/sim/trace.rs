//! What happened in a run: always as a running hash, so that two runs can be compared at no cost, and as text where
//! somebody wants to read it.

/// The trace of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its text, or one that does not.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: keep.then(Vec::new) }
    }

    /// Something happened: `numbers` tell it from everything else, `text` says it.
    pub fn note(&mut self, numbers: [u64; 4], text: impl FnOnce(&mut String)) {
        self.events += 1;
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        if let Some(lines) = &mut self.lines {
            let mut line = String::new();
            text(&mut line);
            if !line.is_empty() {
                lines.push(format!("{:>7} {line}", numbers[0]));
            }
        }
    }

    /// Everything that happened, in one number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The text, where it was kept.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

//! The configuration as a node understands it, printed so that it can be read again; secrets are masked.

use super::Config;

const MASK: &str = "********";

/// The effective configuration as TOML, secrets masked.
#[must_use]
pub fn print(config: &Config) -> String {
    let mut file = config.file.clone();
    let mask = |secret: &mut Option<String>| {
        if secret.is_some() {
            *secret = Some(MASK.to_owned());
        }
    };
    mask(&mut file.root.secret_key);
    file.users.iter_mut().for_each(|user| mask(&mut user.secret_key));
    toml::to_string(&file).unwrap_or_else(|error| format!("# cannot be printed: {error}\n"))
}

/// The memory plan as a table with its sum.
#[must_use]
pub fn memory_table(config: &Config) -> String {
    let row = |name: &str, bytes: u64| format!("  {name:<16}{:>12}\n", super::units::approximate(bytes));
    let mut text: String = config.memory.lines().iter().map(|(name, bytes)| row(name, *bytes)).collect();
    text += &row("planned", config.memory.total());
    let nvram = config.plan.origins.iter().map(|origin| origin.nvram_len).sum();
    text += &row("NVRAM region", nvram);
    for origin in &config.plan.origins {
        text += &row(&format!("  {}", origin.origin), origin.nvram_len);
    }
    text
}

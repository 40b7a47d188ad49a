//! stub
/// Arguments of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Leave both sites running and print how to reach them
    #[arg(long)]
    pub keep: bool,
}
/// Runs it.
///
/// # Errors
/// stub
pub fn run(_args: &DemoArgs) -> Result<(), String> {
    Err("not yet".into())
}

//! The program `lockstep`: everything is in the library.

fn main() -> std::process::ExitCode {
    lockstep_gateway::cli::run()
}

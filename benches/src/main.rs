//! The `bench` program. Results go to standard output, everything else to standard error. A failure is one line that begins with `error:`, and
//! exit code 1; a command line that cannot be understood gives exit code 2.

use std::process::ExitCode;

fn main() -> ExitCode {
    longwave_benches::run()
}

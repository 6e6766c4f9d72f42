//! Trials: tests whose number and whose being ignored is known only at run time.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A trial that runs when its subject is there, and is ignored with the reason when it is not.
pub fn with<S: Send + 'static>(
    name: impl Into<String>,
    subject: Result<S, String>,
    test: impl FnOnce(S) -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let name = name.into();
    match subject {
        Ok(subject) => Trial::test(name, move || {
            test(subject).map_err(|error| Failed::from(format!("{error:?}")))
        }),
        Err(reason) => {
            let why = Failed::from(reason.clone());
            Trial::test(format!("{name} (ignored: {reason})"), move || Err(why))
                .with_ignored_flag(true)
        }
    }
}

/// Runs trials one after another: they share a device and the processor's cores.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

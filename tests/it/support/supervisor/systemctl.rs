//! What `systemctl --user` says and exits with.

use super::Loaded;
use super::definition::of_unit;
use super::job::Job;

/// What is still to be waited for before the call returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Nothing,
    /// Until this unit has no process.
    Ended(String),
}

/// One call: the exit code, what is said, and what must happen before it is said.
pub fn call(loaded: &mut Loaded, words: &[&str]) -> (i32, String, Wait) {
    let done = || (0, String::new(), Wait::Nothing);
    match words {
        ["--user", "show", "--property", _, unit] => (0, show(loaded, unit), Wait::Nothing),
        ["--user", "daemon-reload"] => {
            for job in loaded.jobs.values_mut() {
                // A file that is gone does not end what runs.
                if let Ok(definition) = of_unit(&job.definition.path, loaded.scale) {
                    job.definition = definition;
                }
            }
            done()
        }
        ["--user", "reset-failed", unit] => found(loaded, unit, |_| Wait::Nothing),
        ["--user", "enable", unit] => {
            loaded.enabled.insert((*unit).to_owned(), true);
            found(loaded, unit, |_| Wait::Nothing)
        }
        ["--user", "enable", "--now", unit] => {
            loaded.enabled.insert((*unit).to_owned(), true);
            found(loaded, unit, |job| act(job, Job::start, Wait::Nothing))
        }
        ["--user", "disable", unit] => {
            loaded.enabled.insert((*unit).to_owned(), false);
            found(loaded, unit, |_| Wait::Nothing)
        }
        ["--user", "disable", "--now", unit] => {
            loaded.enabled.insert((*unit).to_owned(), false);
            found(loaded, unit, |job| act(job, Job::stop, Wait::Ended((*unit).to_owned())))
        }
        ["--user", "start", unit] => found(loaded, unit, |job| act(job, Job::start, Wait::Nothing)),
        ["--user", "stop", unit] => found(loaded, unit, |job| act(job, Job::stop, Wait::Ended((*unit).to_owned()))),
        ["--user", "restart", unit] | ["--user", "restart", "--no-block", unit] => {
            found(loaded, unit, |job| act(job, Job::restart, Wait::Nothing))
        }
        _ => (1, format!("Unknown command verb {words:?}\n"), Wait::Nothing),
    }
}

fn act(job: &mut Job, act: impl Fn(&mut Job), wait: Wait) -> Wait {
    act(job);
    wait
}

/// Reads the unit's file unless that was done.
fn load(loaded: &mut Loaded, unit: &str) -> bool {
    if !loaded.jobs.contains_key(unit) {
        let Ok(definition) = of_unit(&loaded.units.join(unit), loaded.scale) else { return false };
        loaded.jobs.insert(unit.to_owned(), Job::idle(definition));
    }
    true
}

fn found(loaded: &mut Loaded, unit: &str, act: impl Fn(&mut Job) -> Wait) -> (i32, String, Wait) {
    if load(loaded, unit) {
        let job = loaded.jobs.get_mut(unit).expect("loaded above");
        (0, String::new(), act(job))
    } else {
        (5, format!("Failed: Unit {unit} not found.\n"), Wait::Nothing)
    }
}

/// Starts a unit because its timer is due.
pub fn start(loaded: &mut Loaded, unit: &str) {
    found(loaded, unit, |job| act(job, Job::start, Wait::Nothing));
}

fn show(loaded: &mut Loaded, unit: &str) -> String {
    if !load(loaded, unit) {
        return "LoadState=not-found\nActiveState=inactive\nMainPID=0\nExecMainStatus=0\nExecMainExitTimestampMonotonic=0\n".to_owned();
    }
    let job = &loaded.jobs[unit];
    let words = &job.definition.words;
    let started = words.first().map_or(String::new(), |program| {
        format!("{{ path={program} ; argv[]={} ; ignore_errors=no ; pid=0 ; status=0/0 }}", words.join(" "))
    });
    format!(
        "LoadState=loaded\nActiveState={}\nMainPID={}\nExecMainStatus={}\nExecMainExitTimestampMonotonic={}\nFragmentPath={}\nExecStart={started}\n",
        job.state(),
        job.pid().unwrap_or(0),
        job.last_end.map_or(0, i32::abs),
        u8::from(job.last_end.is_some()),
        job.definition.path.display(),
    )
}

//! How the server's processes ended, by what each of them wrote down itself: a supervisor brings one back within seconds,
//! and at the next tick no listener shows that anything happened. It refuses to know what is done about it.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::ops::state;

/// What a process that was told to end exits with: drained, forced at its deadline, interrupted twice.
const ASKED: [i32; 3] = [0, 75, 130];

/// One process, as it keeps itself in `state/starts.json`.
#[derive(Debug, Deserialize)]
struct Start {
    /// Unix milliseconds of its begin.
    at: u64,
    /// The exit code; `None` while it runs, and for ever when nobody could write it.
    code: Option<i32>,
    /// It was in its brake, so that its end says nothing.
    limped: bool,
}

/// The processes that are remembered, the newest last.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Starts {
    starts: Vec<Start>,
}

impl Starts {
    /// What is kept for `home`; none when nothing is, or nothing that can be read.
    pub(super) fn of(home: &Path) -> Self {
        let text = fs::read(state::folder(home).join("starts.json")).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// The newest process.
    pub(super) fn newest(&self) -> Option<u64> {
        Some(self.starts.last()?.at)
    }

    /// The newest of those that have a successor, and thus have ended.
    pub(super) fn newest_ended(&self) -> Option<u64> {
        Some(self.starts.iter().rev().nth(1)?.at)
    }

    /// How processes newer than `settled` ended that nobody had asked to, in words.
    pub(super) fn untold(&self, settled: Option<u64>) -> Option<String> {
        let settled = settled?;
        let (_, ended) = self.starts.split_last()?;
        let unasked = |start: &&Start| {
            start.at > settled && !start.limped && start.code.is_none_or(|code| !ASKED.contains(&code))
        };
        let (count, last) = (ended.iter().filter(unasked).count(), ended.iter().rev().find(unasked)?);
        let how = match last.code {
            Some(code) => format!("with exit {code}"),
            None => "killed, or crashed, without a word".to_owned(),
        };
        Some(format!("unasked, {count} of its processes ended since the last look, the last one {how}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn starts(text: &str) -> Starts {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(state::folder(home.path())).unwrap();
        fs::write(state::folder(home.path()).join("starts.json"), text).unwrap();
        Starts::of(home.path())
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_told_once_and_only_when_another_process_followed() {
        let told = starts(
            r#"{"pauses":0,"until":null,"starts":[{"at":1,"code":70,"limped":false},{"at":2,"code":0,"limped":false},
            {"at":3,"code":null,"limped":false},{"at":4,"code":70,"limped":false},{"at":5,"code":null,"limped":false}]}"#,
        );
        assert_eq!((told.newest(), told.newest_ended()), (Some(5), Some(4)));
        assert_eq!(told.untold(None), None, "the first look knows nothing of before");
        let both = "unasked, 2 of its processes ended since the last look, the last one with exit 70";
        assert_eq!(told.untold(Some(1)).as_deref(), Some(both));
        assert_eq!((told.untold(Some(4)), told.untold(Some(9))), (None, None), "9: the clock was set back");
        let killed = starts(
            r#"{"starts":[{"at":1,"code":75,"limped":false},{"at":2,"code":null,"limped":false},{"at":3,"code":null,"limped":false}]}"#,
        );
        assert!(killed.untold(Some(0)).is_some_and(|why| why.contains("1 of its processes") && why.contains("killed")));
    }

    #[test]
    fn one_that_was_asked_to_end_or_limped_or_runs_is_not_told_and_a_torn_file_says_nothing() {
        for quiet in [
            r#"{"starts":[{"at":1,"code":0,"limped":false},{"at":2,"code":75,"limped":false},{"at":3,"code":null,"limped":false}]}"#,
            r#"{"starts":[{"at":1,"code":null,"limped":true},{"at":2,"code":null,"limped":false}]}"#,
            r#"{"starts":[{"at":1,"code":null,"limped":false}]}"#,
            r#"{"starts":[{"#,
        ] {
            assert_eq!(starts(quiet).untold(Some(0)), None, "{quiet}");
        }
        assert_eq!(Starts::of(Path::new("/nowhere")).newest(), None);
    }
}

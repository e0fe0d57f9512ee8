//! Which waiting job gets a row next, as a function of who waits, who runs and what is free: no clock, no channel, no
//! array.
//!
//! **Fairness.** The next job is of the scope with the fewest open rows, among those of the one that was served longest
//! ago, among those the one that waits longest: whoever asks for little is not held up by whoever asks for much.
//!
//! **Memory.** A job is admitted when what its row takes at the end fits beside what the open rows take at theirs. The
//! next job waits until it fits, and nobody overtakes it: a large one is late, but not for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Scopes that are remembered: far more than have certificates at one server.
const SCOPES_MAX: usize = 1024;

/// A job that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// Who asks.
    pub(crate) scope: &'a Arc<str>,
    /// What its row takes at the end.
    pub(crate) bytes: u64,
}

/// What there is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Rows that are free.
    pub(crate) rows: u32,
    /// Bytes that no open row may need.
    pub(crate) bytes: u64,
}

/// Who was served when: the turn at which each scope last got a row.
#[derive(Debug, Default)]
pub(crate) struct Served {
    turns: BTreeMap<Arc<str>, u64>,
    turn: u64,
}

impl Served {
    /// The place of the job that gets a row now, in `waiting`, which is in the order of arrival; `None` if there is none,
    /// no row is free, or the next one has to wait for memory. `open` has the scope of each open row.
    pub(crate) fn next<'a>(
        &self,
        waiting: impl Iterator<Item = Candidate<'a>>,
        open: &[&Arc<str>],
        room: Room,
    ) -> Option<usize> {
        if room.rows == 0 {
            return None;
        }
        let claim = |scope: &Arc<str>| {
            let rows = open.iter().filter(|other| **other == scope).count();
            (rows, self.turns.get(scope).copied().unwrap_or(0))
        };
        let (place, next) = waiting.enumerate().min_by_key(|(place, job)| (claim(job.scope), *place))?;
        (next.bytes <= room.bytes).then_some(place)
    }

    /// A job of this scope got a row. Scopes are remembered after they have left: one that comes back again and again goes
    /// behind one that waits.
    pub(crate) fn note(&mut self, scope: &Arc<str>) {
        self.turn += 1;
        self.turns.insert(Arc::clone(scope), self.turn);
        if self.turns.len() > SCOPES_MAX {
            let oldest = self.turns.iter().min_by_key(|(_, turn)| **turn).map(|(scope, _)| Arc::clone(scope));
            self.turns.remove(&oldest.expect("there are more than none"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { rows: 1, bytes: 100 };

    fn scope(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn next(served: &Served, waiting: &[(&Arc<str>, u64)], open: &[&Arc<str>], room: Room) -> Option<usize> {
        served.next(waiting.iter().map(|(scope, bytes)| Candidate { scope, bytes: *bytes }), open, room)
    }

    #[test]
    fn whoever_has_fewer_rows_open_goes_first() {
        let (a, b) = (scope("a"), scope("b"));
        let waiting = [(&a, 1), (&a, 1), (&b, 1)];
        assert_eq!(next(&Served::default(), &waiting, &[&a, &a, &b], ROOM), Some(2));
        assert_eq!(next(&Served::default(), &waiting, &[&a, &b], ROOM), Some(0));
    }

    #[test]
    fn with_one_row_scopes_take_turns() {
        let (a, b) = (scope("a"), scope("b"));
        let mut served = Served::default();
        let mut waiting = vec![(&a, 1); 6];
        waiting.extend([(&b, 1); 2]);
        let mut order = String::new();
        while let Some(place) = next(&served, &waiting, &[], ROOM) {
            let (scope, _) = waiting.remove(place);
            order.push_str(scope);
            served.note(scope);
        }
        assert_eq!(order, "ababaaaa");
    }

    #[test]
    fn whoever_comes_back_again_and_again_goes_behind_one_that_waits() {
        let (a, b) = (scope("a"), scope("b"));
        let mut served = Served::default();
        served.note(&b);
        served.note(&a);
        assert_eq!(next(&served, &[(&a, 1), (&b, 1)], &[], ROOM), Some(1));
        (0..2 * SCOPES_MAX).for_each(|other| served.note(&scope(&other.to_string())));
        assert_eq!(served.turns.len(), SCOPES_MAX);
    }

    #[test]
    fn nobody_overtakes_a_job_that_waits_for_memory() {
        let a = scope("a");
        let served = Served::default();
        assert_eq!(next(&served, &[(&a, 101), (&a, 1)], &[], ROOM), None);
        assert_eq!(next(&served, &[(&a, 100), (&a, 1)], &[], ROOM), Some(0));
    }

    #[test]
    fn without_a_free_row_nobody_is_admitted() {
        let a = scope("a");
        assert_eq!(next(&Served::default(), &[(&a, 1)], &[], Room { rows: 0, ..ROOM }), None);
    }
}

//! Whether guessing pays, and how far: what a longer pass costs beside what it is likely to give. It owns the estimate of
//! how often a row's guesses are right, and the choice of lengths for all rows of a step; it is a function of what it is
//! told, without clock, array or text.
//!
//! A pass of more tokens takes longer, by how much depends on the machine and is measured at the start ([`Costs`]). A guess
//! counts only if all before it in its draft were right, so each further token of a draft gives less and costs as much. The
//! draft tokens of all rows, the likeliest first, are taken as long as the step's tokens per time grow with them: where no
//! guess is worth its cost, none is made. That is the gate: it closes for a row whose guesses fail, and because an estimate
//! fades, it tries again after a while.

/// What is known of a row's guesses before any was checked counts as so many checked ones.
const PRIOR_TOKENS: f64 = 2.0;
/// Of what was seen of a row's guesses, so much counts after one more token: half of it after 69.
const FADING: f64 = 0.99;
/// A draft must promise so many times the tokens per time of a step without: a step that drafts cannot run ahead.
const GAIN_MIN: f64 = 1.05;

/// How long a pass takes, by its tokens, in any unit.
#[derive(Debug, Clone)]
pub(in crate::runner) struct Costs {
    /// Tokens and time, at least one pair, ascending in both.
    points: Vec<(usize, f64)>,
}

impl Costs {
    /// From measurements of so many tokens each, ascending. A longer pass that was faster was not: its time is that of the
    /// shorter one.
    pub(in crate::runner) fn new(mut points: Vec<(usize, f64)>) -> Self {
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "measured in ascending order");
        assert!(points.first().is_some_and(|(_, time)| *time > 0.0), "a pass takes time");
        for at in 1..points.len() {
            points[at].1 = points[at].1.max(points[at - 1].1);
        }
        Self { points }
    }

    /// A longer pass costs nothing.
    pub(in crate::runner) fn none() -> Self {
        Self { points: vec![(1, 1.0), (usize::MAX, 1.0)] }
    }

    /// Between two measurements on the line through both; beyond the last one on the line from nothing to it.
    fn of(&self, tokens: usize) -> f64 {
        let at = self.points.partition_point(|(measured, _)| *measured < tokens);
        let tokens = tokens as f64;
        match (at.checked_sub(1).map(|before| self.points[before]), self.points.get(at)) {
            (Some((low, from)), Some((high, to))) => from + (to - from) * (tokens - low as f64) / (high - low) as f64,
            (None, Some((_, least))) => *least,
            (Some((last, time)), None) => time * tokens / last as f64,
            (None, None) => unreachable!("there is a measurement"),
        }
    }
}

/// What became of a row's guesses, the recent ones counting most.
#[derive(Debug, Default)]
pub(super) struct Record {
    right: f64,
    wrong: f64,
}

impl Record {
    /// Of `drafted` tokens so many were right; the one behind them was not, if there was one.
    pub(super) fn note(&mut self, drafted: usize, right: usize) {
        self.right += right as f64;
        self.wrong += f64::from(u8::from(right < drafted));
    }

    /// The row has so many tokens more.
    pub(super) fn fade(&mut self, tokens: usize) {
        let share = FADING.powi(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.right *= share;
        self.wrong *= share;
    }

    /// The probability that the next token is the one that followed a match of so many tokens.
    pub(super) fn likely(&self, matched: usize) -> f64 {
        let prior = matched as f64 / (matched as f64 + 2.0);
        (self.right + PRIOR_TOKENS * prior) / (self.right + self.wrong + PRIOR_TOKENS)
    }
}

/// What a row of a step could draft.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Offer {
    /// The probability of each guess, given that those before it were right.
    pub(super) likely: f64,
    /// How many there may be.
    pub(super) tokens_max: usize,
}

/// How many tokens each row drafts in a pass of all of them; 0 for a row that offers none.
pub(super) fn lengths(offers: &[Option<Offer>], costs: &Costs) -> Vec<usize> {
    let mut guesses: Vec<(f64, usize)> = Vec::new();
    for (row, offer) in offers.iter().enumerate() {
        let Some(offer) = offer else { continue };
        let mut right = 1.0;
        guesses.extend((0..offer.tokens_max).map(|_| {
            right *= offer.likely;
            (right, row)
        }));
    }
    // Of one row they descend, so the first so many of all are the first so many of each row.
    guesses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows = offers.len();
    let (mut expected, mut taken) = (rows as f64, 0);
    let mut best = GAIN_MIN * expected / costs.of(rows);
    for (at, (right, _)) in guesses.iter().enumerate() {
        expected += right;
        let rate = expected / costs.of(rows + at + 1);
        if rate > best {
            (best, taken) = (rate, at + 1);
        }
    }
    let mut lengths = vec![0; rows];
    guesses[..taken].iter().for_each(|(_, row)| lengths[*row] += 1);
    lengths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each token more costs so much of a pass of one.
    fn costs(each: f64) -> Costs {
        Costs::new([1, 2, 4, 8, 16].map(|tokens| (tokens, 1.0 + each * (tokens - 1) as f64)).to_vec())
    }

    fn offer(likely: f64) -> Offer {
        Offer { likely, tokens_max: 8 }
    }

    #[test]
    fn the_likelier_and_the_cheaper_a_guess_the_longer_the_draft() {
        assert_eq!(lengths(&[Some(offer(0.95))], &costs(0.0)), [8]);
        assert_eq!(lengths(&[Some(offer(0.95))], &costs(1.0)), [0]);
        let length = |likely, each| lengths(&[Some(offer(likely))], &costs(each))[0];
        assert!((0..10).all(|tenth| length(f64::from(tenth) / 10.0, 0.2) <= length(f64::from(tenth + 1) / 10.0, 0.2)));
        assert!((1..10).all(|tenth| length(0.8, f64::from(tenth) / 10.0) >= length(0.8, f64::from(tenth + 1) / 10.0)));
        assert!(length(0.9, 0.2) > length(0.6, 0.2));
    }

    #[test]
    fn a_row_that_offers_nothing_drafts_nothing_beside_one_that_does() {
        assert_eq!(lengths(&[None, Some(offer(1.0)), None], &costs(0.01)), [0, 8, 0]);
        assert_eq!(lengths(&[None, None], &costs(0.0)), [0, 0]);
    }

    #[test]
    fn the_gate_closes_for_guesses_that_fail_and_opens_again_after_a_while() {
        let costs = costs(0.35);
        let length = |record: &Record| lengths(&[Some(offer(record.likely(4)))], &costs)[0];
        let mut record = Record::default();
        assert!(length(&record) > 0, "a row is given a try");
        let mut tries = 0;
        while length(&record) > 0 {
            record.note(length(&record), 0);
            tries += 1;
        }
        assert!((1..=3).contains(&tries), "{tries} tries that all fail");
        let mut pause = 0;
        while length(&record) == 0 {
            record.fade(1);
            pause += 1;
        }
        assert!((20..200).contains(&pause), "tried again after {pause} tokens");
        (0..4).for_each(|_| record.note(4, 4));
        assert!(length(&record) > 2, "guesses that are right open it");
    }

    #[test]
    fn a_measurement_that_is_faster_than_a_shorter_one_is_not_believed() {
        let costs = Costs::new(vec![(1, 2.0), (2, 1.5), (4, 3.0)]);
        let found = [1, 2, 3, 4, 8].map(|tokens| costs.of(tokens));
        assert_eq!(found, [2.0, 2.0, 2.5, 3.0, 6.0]);
    }

    proptest! {
        #[test]
        fn no_other_lengths_promise_more_tokens_per_time(
            offers in proptest::collection::vec(prop_oneof![
                Just(None),
                (0.0_f64..1.0, 0_usize..4).prop_map(|(likely, tokens_max)| Some(Offer { likely, tokens_max })),
            ], 1..4),
            times in proptest::collection::vec(0.0_f64..1.0, 4),
        ) {
            let mut time = 1.0;
            let points = [1, 2, 4, 8].into_iter().zip(times).map(|(tokens, more)| { time += more; (tokens, time) });
            let costs = Costs::new(points.collect());
            let rate = |lengths: &[usize]| {
                let expected = |(offer, length): (&Option<Offer>, &usize)| {
                    let likely = offer.map_or(0.0, |offer| offer.likely);
                    (0..=*length).map(|at| likely.powi(at as i32)).sum::<f64>()
                };
                let tokens = offers.len() + lengths.iter().sum::<usize>();
                offers.iter().zip(lengths).map(expected).sum::<f64>() / costs.of(tokens)
            };
            let found = lengths(&offers, &costs);
            let most: Vec<usize> = offers.iter().map(|offer| offer.map_or(0, |offer| offer.tokens_max)).collect();
            prop_assert!(found.iter().zip(&most).all(|(length, most)| length <= most));
            let none = vec![0; offers.len()];
            prop_assert!(found == none || rate(&found) > GAIN_MIN * rate(&none) - 1e-9);
            let choices = most.iter().map(|most| most + 1).product::<usize>();
            for mut choice in 0..choices {
                let other: Vec<usize> = most.iter().map(|most| {
                    let length = choice % (most + 1);
                    choice /= most + 1;
                    length
                }).collect();
                let pays = other != none && rate(&other) > GAIN_MIN * rate(&none) + 1e-9;
                prop_assert!(!pays || rate(&found) >= rate(&other) - 1e-9, "{:?} and not {:?}", other, found);
            }
        }
    }
}

//! Each thing that can go wrong with a server, done for real to one that serves, and the channel that must say so: within
//! its cadence, the time that its tick may take, and a tenth (P9). The table is what the test prints.

mod channel;
mod companions;
mod place;
mod release;
mod serving;
mod ticks;

use std::time::Instant;

use self::channel::{Row, SCALE, errors};
use self::place::{CANARY, DRIFT, GUARDIAN, INTEGRITY, Place};
use crate::support::tell_trials;

/// So many are promised.
const FAULTS_MIN: usize = 18;

#[test]
fn p9_each_fault_is_told_on_its_own_channel_within_its_cadence() {
    let begun = Instant::now();
    let place = Place::new();
    println!("cadences are a {SCALE}th of production's; limits of a tick stand beside each channel:");
    for channel in [GUARDIAN, CANARY, INTEGRITY, DRIFT] {
        let (every, cadence) = (channel.every.as_secs(), channel.cadence().as_secs_f64());
        let (limit, bound) = (channel.limit.as_secs(), channel.bound().as_secs_f64());
        println!(
            "  {:9}  every {every:4} s, here {cadence:5.2} s, limit {limit:2} s, bound {bound:5.2} s",
            channel.name
        );
    }
    let mut rows: Vec<Row> = Vec::new();
    std::thread::scope(|scope| {
        // Its cadence is the longest: meanwhile the others tell of other things.
        let drift = companions::unloaded(&place, scope);
        rows.extend(release::faults(&place));
        rows.extend(companions::faults(&place));
        rows.push(drift.join().expect("drift ticks"));
    });
    rows.push(companions::torn_plan(&place));
    rows.extend(serving::faults(&place));
    println!("fault · how injected · channel that must say so · bound · seen");
    rows.iter().for_each(|row| println!("{row}"));
    println!("{} faults in {:.0} s", rows.len(), begun.elapsed().as_secs_f64());
    companions::load(&place);
    for channel in [GUARDIAN, CANARY, INTEGRITY, DRIFT] {
        assert_eq!(errors(place.tick(channel)), Vec::<String>::new(), "all is well again, says {}", channel.name);
    }
    assert!(rows.len() >= FAULTS_MIN, "{} faults", rows.len());
    let missed: Vec<&Row> = rows.iter().filter(|row| !row.holds()).collect();
    assert!(missed.is_empty(), "not told in time: {missed:#?}");
    tell_trials("P9", 1, 1);
}

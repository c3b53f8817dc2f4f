//! Admission: never more admitted at a time than the limit, of all priorities
//! together, whoever goes away and whenever the limit changes.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use remora_proxy::clock::Timestamp;
use remora_proxy::policy::admission::Gate;
use remora_proxy::policy::config::admission::{Adaptive, Admission, Priority};

use crate::{OPERATIONS, WORKERS, on_workers};

const MOST: u32 = 17;
/// Virtual time of one operation, so that guards are worked out anew very often.
const STEP: Duration = Duration::from_micros(20);

fn at_most(max_requests: u32) -> [Admission; 1] {
    [Admission {
        max_requests: Some(max_requests),
        ..Admission::default()
    }]
}

/// With one beside it that is learnt, and would be far higher.
fn at_most_and_learnt(max_requests: u32) -> [Admission; 1] {
    let adaptive = Adaptive {
        min_requests: 1,
        max_requests: 1_000,
        tolerance_percent: 200,
    };
    at_most(max_requests).map(|admission| Admission {
        adaptive: Some(adaptive),
        ..admission
    })
}

/// `changes`: the limit falls and rises all the time, never above [`MOST`].
fn play(changes: bool, at_most: fn(u32) -> [Admission; 1]) {
    let gate = Gate::new();
    let begin = Timestamp::from_millis(1_000);
    gate.configure(&at_most(MOST), begin);
    let (there, highest) = (AtomicU32::new(0), AtomicU32::new(0));
    let admitted: usize = on_workers(|worker| {
        let mut random = fastrand::Rng::with_seed(worker as u64);
        let (mut held, mut admitted, mut now) = (Vec::new(), 0, begin);
        for _ in 0..OPERATIONS / WORKERS {
            now = now.after(STEP);
            if changes && worker == 0 && random.u8(..8) == 0 {
                gate.configure(&at_most(random.u32(..=MOST)), now);
            } else if random.u8(..5) < 3 {
                let priority = Priority::ALL[random.usize(..Priority::ALL.len())];
                if let Some(permit) = gate.try_admit(priority, now) {
                    // Raised after it was given and lowered before it is given
                    // back, so it is never above the truth.
                    let now_there = there.fetch_add(1, SeqCst) + 1;
                    assert!(now_there <= MOST, "{now_there} of {MOST}");
                    highest.fetch_max(now_there, Relaxed);
                    admitted += 1;
                    held.push(permit);
                }
            } else if !held.is_empty() {
                // In no order: answered, left before its answer, or just dropped.
                let mut permit = held.swap_remove(random.usize(..held.len()));
                match random.u8(..3) {
                    0 => permit.answered(now),
                    1 => permit.left(now),
                    _ => (),
                }
                there.fetch_sub(1, SeqCst);
                drop(permit);
            }
            if random.u16(..) == 0 {
                // All of a worker's callers at once.
                there.fetch_sub(held.len() as u32, SeqCst);
                held.clear();
            }
        }
        there.fetch_sub(held.len() as u32, SeqCst);
        admitted
    })
    .into_iter()
    .sum();
    let figures = gate.figures();
    assert_eq!(figures.in_flight, 0, "what was given came back");
    assert_eq!(highest.into_inner(), MOST, "the limit was never reached");
    let asked: u64 = figures.asked.iter().sum();
    let refused: u64 = figures.refused.iter().sum();
    assert_eq!(asked - refused, admitted as u64);
    assert!(refused > 0 && admitted > OPERATIONS / 20, "{admitted}");
}

#[test]
fn a_million_operations_with_cancellations_never_exceed_max_requests() {
    play(false, at_most);
}

#[test]
fn a_limit_that_changes_all_the_time_admits_nothing_above_the_highest() {
    play(true, at_most);
}

/// What is added to a learnt limit for the sake of its guards is within the fixed one.
#[test]
fn a_learnt_limit_and_its_guards_admit_no_more_than_max_requests() {
    play(false, at_most_and_learnt);
    play(true, at_most_and_learnt);
}

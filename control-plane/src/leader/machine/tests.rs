use super::*;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);

/// An API server with one Lease, which takes a write only over its version.
#[derive(Default)]
struct Server {
    lease: Option<Seen>,
    version: u64,
}

impl Server {
    fn write(&mut self, step: &Step, address: &str) -> Option<Seen> {
        let record = match (step, &self.lease) {
            (Step::Create(record), None) => record,
            (Step::Replace(record, over), Some(held)) if *over == held.resource_version => record,
            _ => return None,
        };
        self.version += 1;
        let seen = Seen {
            record: record.clone(),
            address: address.to_owned(),
            resource_version: self.version.to_string(),
        };
        self.lease = Some(seen.clone());
        Some(seen)
    }
}

fn leads(machine: &Machine, now: Instant) -> bool {
    machine.leading_until().is_some_and(|until| now < until)
}

/// One attempt without any delay.
fn attempt(machine: &mut Machine, server: &mut Server, now: Instant) -> Step {
    let step = machine.step(now, 1);
    match &step {
        Step::Wait(_) => {}
        Step::Read => machine.observe(server.lease.clone(), now),
        write => match server.write(write, "10.0.0.1:15110") {
            Some(seen) => machine.written(seen, now, now),
            None => {
                machine.observe(server.lease.clone(), now);
                machine.failed(now, 0.0);
            }
        },
    }
    step
}

fn leader(server: &mut Server, now: Instant) -> Machine {
    let mut machine = Machine::new("a", now);
    attempt(&mut machine, server, now);
    attempt(&mut machine, server, now);
    assert!(leads(&machine, now));
    machine
}

#[test]
fn the_first_to_write_leads_and_renews_every_interval() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut machine = leader(&mut server, now);
    let wait = attempt(&mut machine, &mut server, now);
    assert_eq!(wait, Step::Wait(now + RENEW_INTERVAL));
    let renewed = attempt(&mut machine, &mut server, now + RENEW_INTERVAL);
    assert!(matches!(renewed, Step::Replace(..)), "{renewed:?}");
    assert_eq!(
        machine.leading_until(),
        Some(now + RENEW_INTERVAL + RENEW_DEADLINE)
    );
    let record = &server.lease.unwrap().record;
    assert_eq!((record.holder.as_str(), record.transitions), ("a", 0));
}

#[test]
fn a_holder_that_cannot_renew_stops_by_itself_before_others_begin() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut machine = leader(&mut server, now);
    let mut other = Machine::new("b", now);
    attempt(&mut other, &mut server, now);
    for second in 1..15 {
        let at = now + SECOND * second;
        machine.failed(at, 1.0);
        machine.step(at, 1);
        assert_eq!(leads(&machine, at), second < 10, "{second}");
        assert!(matches!(
            attempt(&mut other, &mut server, at),
            Step::Wait(_)
        ));
    }
    attempt(&mut other, &mut server, now + LEASE_DURATION);
    assert!(leads(&other, now + LEASE_DURATION));
    assert_eq!(server.lease.unwrap().record.transitions, 1);
}

#[test]
fn time_is_counted_from_what_was_seen_and_not_from_what_is_written() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut holder = leader(&mut server, now);
    let mut other = Machine::new("b", now);
    attempt(&mut other, &mut server, now);
    // Its clock stands still, but it writes.
    for round in 1..10 {
        let at = now + RENEW_INTERVAL * round;
        attempt(&mut holder, &mut server, at);
        server.lease.as_mut().unwrap().record.renewed_us = i64::from(round);
        other.observe(server.lease.clone(), at);
        attempt(&mut other, &mut server, at);
        assert!(!leads(&other, at));
    }
}

#[test]
fn a_lease_that_is_deleted_or_taken_by_force_ends_leading_at_once() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut machine = leader(&mut server, now);
    machine.observe(None, now);
    assert!(!leads(&machine, now));
    server.lease = None;
    attempt(&mut machine, &mut server, now);
    assert!(leads(&machine, now), "it may be the first again");

    let mut taken = server.lease.clone().unwrap();
    taken.record.holder = "b".to_owned();
    taken.resource_version = "99".to_owned();
    machine.observe(Some(taken), now);
    assert!(!leads(&machine, now));
    let wait = machine.step(now, 1);
    assert_eq!(wait, Step::Wait(now + LEASE_DURATION));
}

#[test]
fn what_a_watch_tells_late_changes_nothing() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut machine = leader(&mut server, now);
    let mut late = server.lease.clone().unwrap();
    attempt(&mut machine, &mut server, now + RENEW_INTERVAL);
    late.record.holder = "b".to_owned();
    machine.observe(Some(late), now + RENEW_INTERVAL);
    assert!(leads(&machine, now + RENEW_INTERVAL));
}

#[test]
fn given_up_it_goes_to_another_without_waiting() {
    let (mut server, now) = (Server::default(), clock::now());
    let mut machine = leader(&mut server, now);
    let mut other = Machine::new("b", now);
    attempt(&mut other, &mut server, now);
    let (record, over) = machine.release(7).unwrap();
    assert!(!leads(&machine, now));
    let given_up = server.write(&Step::Replace(record, over), "").unwrap();
    other.observe(Some(given_up), now + SECOND);
    attempt(&mut other, &mut server, now + SECOND);
    assert!(leads(&other, now + SECOND));
    assert_eq!(machine.release(8), None);
}

#[test]
fn a_duration_that_nobody_can_mean_does_not_lock_it_for_ever() {
    let now = clock::now();
    for (written, wait) in [(i32::MAX, 300), (0, 1), (-5, 1)] {
        let mut machine = Machine::new("b", now);
        let record = Record {
            holder: "gone".to_owned(),
            duration_seconds: written,
            ..Record::default()
        };
        let seen = Seen {
            record,
            resource_version: "1".to_owned(),
            ..Seen::default()
        };
        machine.observe(Some(seen), now);
        assert_eq!(machine.step(now, 1), Step::Wait(now + SECOND * wait));
    }
}

/// Numbers of one seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A request on its way: when it was begun, when it arrives there, when its
/// answer is back.
struct Flight {
    step: Step,
    begun: Instant,
    there: Option<Instant>,
    back: Instant,
    answer: Option<Option<Seen>>,
}

/// Three replicas, slow and lost requests, lost answers, somebody who deletes
/// the Lease or takes it: at no moment do two lead who both go by it, and when
/// the trouble is over one leads within 20 s.
#[test]
fn never_two_lead_and_soon_one_does() {
    const STEP: Duration = Duration::from_millis(100);
    for seed in 1..=300_u64 {
        let (mut dice, mut server, start) = (Dice(seed * 7919), Server::default(), clock::now());
        let names = ["a", "b", "c"];
        let mut machines: Vec<Machine> =
            names.iter().map(|name| Machine::new(name, start)).collect();
        let mut flights: Vec<Option<Flight>> = names.iter().map(|_| None).collect();
        let trouble_ends = start + SECOND * 120;
        let mut now = start;
        while now < trouble_ends + SECOND * 20 {
            now += STEP;
            let calm = now >= trouble_ends;
            for (machine, flight) in machines.iter_mut().zip(&mut flights) {
                fly(machine, flight, &mut server, &mut dice, now, calm);
            }
            let leading = machines.iter().filter(|one| leads(one, now)).count();
            assert!(leading <= 1, "seed {seed}: {leading} lead");
        }
        let leading = machines.iter().filter(|one| leads(one, now)).count();
        assert_eq!(leading, 1, "seed {seed}: nobody leads");
    }
}

/// No two replicas need have the same clock: only that what they write differs.
fn written_us(dice: &mut Dice) -> i64 {
    dice.roll(1 << 40) as i64
}

fn fly(
    machine: &mut Machine,
    flight: &mut Option<Flight>,
    server: &mut Server,
    dice: &mut Dice,
    now: Instant,
    calm: bool,
) {
    let slowest = if calm { 200 } else { 6_000 };
    match flight {
        None => {
            let step = machine.step(now, written_us(dice));
            if matches!(step, Step::Wait(_)) {
                return;
            }
            let mut millis = || Duration::from_millis(dice.roll(slowest));
            let there = now + millis();
            let back = (there + millis()).min(now + crate::answer::REQUEST_TIMEOUT);
            let lost = !calm && dice.roll(4) == 0;
            *flight = Some(Flight {
                step,
                begun: now,
                there: (!lost).then_some(there),
                back,
                answer: None,
            });
        }
        Some(on_way) => {
            if on_way.there.is_some_and(|there| now >= there) {
                on_way.there = None;
                on_way.answer = Some(match on_way.step {
                    Step::Read => server.lease.clone(),
                    _ => server.write(&on_way.step, "").or(server.lease.clone()),
                });
            }
            if now < on_way.back {
                return;
            }
            // What arrives after the answer was given up on counts too.
            if let (Some(_), Step::Create(_) | Step::Replace(..)) = (on_way.there, &on_way.step) {
                server.write(&on_way.step, "");
            }
            let lost_answer = !calm && dice.roll(5) == 0;
            let answer = on_way.answer.take().filter(|_| !lost_answer);
            let (step, begun) = (on_way.step.clone(), on_way.begun);
            *flight = None;
            match (answer, step) {
                (None, _) => machine.failed(now, 0.5),
                (Some(seen), Step::Read) => machine.observe(seen, now),
                (Some(Some(seen)), Step::Create(record) | Step::Replace(record, _))
                    if seen.record == record =>
                {
                    machine.written(seen, begun, now);
                }
                (Some(seen), _) => {
                    machine.observe(seen, now);
                    machine.failed(now, 0.5);
                }
            }
        }
    }
}

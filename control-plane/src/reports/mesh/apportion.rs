//! One limit of the whole mesh, shared out among the sidecars that hold parts of it.
//!
//! ```text
//!              grant sent                    told to be in force
//!   in force ------------> in force, under way --------------------> in force
//!      ^                          |
//!      |   the stream broke       |  its next stream tells what is in force
//!      +--------------------------+
//! ```
//!
//! What a holder may have at a moment is the larger of what it has told and of what is under way
//! to it. All of that together is never more than the whole: a cut is free for others only when
//! it is told to be in force, and what a holder has goes back only with its Pod. A leader that is
//! new knows only what it was told; until everybody has told, what was not told of is nobody's
//! to give ([`Apportioner::settle`]).
//!
//! Rates and bursts are shared out alike, each by itself: the tokens of all sidecars together are
//! then at most the limit's burst, and grow by at most its rate. Bursts are whole numbers, so at
//! most as many sidecars hold a share at once as the burst says.

use std::collections::BTreeMap;

use remora_proto::bounds::WHOLE_PARTS_PER_MILLION;

/// Who may hold a share of one limit at once; further ones get none.
pub const MAX_HOLDERS: usize = 10_000;
/// Of the whole, for those without demand, all together: 1 %.
const IDLE_PARTS: u64 = 10_000;
/// A demand is measured over at least so long.
const MEASURE_MS: u64 = 150;
/// Who is silent for so long wants nothing any more, ever less of it.
const SILENCE_MS: u64 = 500;
/// In that silence what it wanted halves in each of these.
const HALVING_MS: u64 = 200;
/// A share is not changed for less than this ...
const LEAST_CHANGE: u64 = 500;
/// ... or than this part of itself.
const LEAST_PART: u64 = 64;

/// A limit, as its policy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// In each period.
    pub requests: u32,
    /// The period.
    pub per_ms: u64,
    /// At once.
    pub burst: u32,
}

/// A part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Of the rate.
    pub parts_per_million: u32,
    /// Of the burst.
    pub burst: u32,
}

impl Share {
    fn most(self, other: Self) -> Self {
        Self {
            parts_per_million: self.parts_per_million.max(other.parts_per_million),
            burst: self.burst.max(other.burst),
        }
    }
}

/// What a sidecar tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What is in force there.
    pub share: Share,
    /// The number of that share on this stream; zero where it came on another.
    pub grant: u64,
    /// Requests that wanted it.
    pub asked: u64,
    /// In how long.
    pub over_ms: u64,
}

/// A share that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant<K> {
    /// To whom.
    pub holder: K,
    /// Its number on the holder's stream.
    pub number: u64,
    /// What it has then.
    pub share: Share,
}

/// What is known of one sidecar.
#[derive(Clone, Debug, Default)]
struct Holder {
    /// As it has told.
    in_force: Share,
    /// Sent, and not yet told to be in force.
    under_way: Option<(u64, Share)>,
    last_grant: u64,
    /// It has a stream on which it has told.
    connected: bool,
    /// What it wants of the whole, in millionths.
    demand: u64,
    heard_ms: u64,
    asked: u64,
    over_ms: u64,
}

impl Holder {
    /// What it may have.
    fn most(&self) -> Share {
        let under_way = self.under_way.map_or(Share::default(), |(_, share)| share);
        self.in_force.most(under_way)
    }

    fn wants(&self, now_ms: u64) -> u64 {
        let silent = now_ms.saturating_sub(self.heard_ms);
        let halvings = silent.saturating_sub(SILENCE_MS).div_ceil(HALVING_MS);
        self.demand >> halvings.min(63)
    }
}

/// One limit, shared out.
#[derive(Debug)]
pub struct Apportioner<K> {
    whole: Whole,
    holders: BTreeMap<K, Holder>,
    /// What was told of, while not everybody has told.
    told_of: Option<Share>,
}

impl<K: Ord + Clone> Apportioner<K> {
    /// Of this limit; `settled` where it is known that nobody else has a part of it.
    pub fn new(whole: Whole, settled: bool) -> Self {
        Self {
            whole,
            holders: BTreeMap::new(),
            told_of: (!settled).then(Share::default),
        }
    }

    /// The limit is another one from now on.
    pub fn set_whole(&mut self, whole: Whole) {
        self.whole = whole;
    }

    /// Everybody who could have a part of it has told, or is gone.
    pub fn settle(&mut self) {
        self.told_of = None;
    }

    /// How many hold a share, and how much all of them may have together.
    pub fn held(&self) -> (usize, Share) {
        let mut sum = Share::default();
        let mut count = 0;
        for most in self.holders.values().map(Holder::most) {
            sum.parts_per_million = sum.parts_per_million.saturating_add(most.parts_per_million);
            sum.burst = sum.burst.saturating_add(most.burst);
            count += usize::from(most.burst > 0 && most.parts_per_million > 0);
        }
        (count, sum)
    }

    /// A sidecar tells; `first` where it does so for the first time on its stream.
    pub fn tell(&mut self, key: &K, told: Told, first: bool, now_ms: u64) {
        let share = Share {
            parts_per_million: told.share.parts_per_million.min(WHOLE_PARTS_PER_MILLION),
            burst: told.share.burst,
        };
        if !self.holders.contains_key(key) && self.holders.len() >= MAX_HOLDERS {
            return;
        }
        let whole = self.whole;
        let holder = self.holders.entry(key.clone()).or_default();
        if first || !holder.connected {
            let before = holder.most();
            if let Some(told_of) = &mut self.told_of {
                let more = |now: u32, before: u32| now.saturating_sub(before);
                let parts = more(share.parts_per_million, before.parts_per_million);
                let parts = told_of.parts_per_million.saturating_add(parts);
                told_of.parts_per_million = parts.min(WHOLE_PARTS_PER_MILLION);
                let burst = told_of
                    .burst
                    .saturating_add(more(share.burst, before.burst));
                told_of.burst = burst.min(whole.burst);
            }
            holder.in_force = share;
            holder.under_way = None;
            holder.last_grant = 0;
            holder.connected = true;
        } else if let Some((number, sent)) = holder.under_way
            && told.grant >= number
        {
            holder.in_force = sent;
            holder.under_way = None;
        }
        holder.measure(whole, told, now_ms);
    }

    /// The stream of a sidecar ended: it goes on with what it has.
    pub fn disconnect(&mut self, key: &K) {
        if let Some(holder) = self.holders.get_mut(key) {
            holder.connected = false;
        }
    }

    /// The Pod of a sidecar is gone, and its share with it.
    pub fn remove(&mut self, key: &K) {
        self.holders.remove(key);
    }

    /// Who has told.
    pub fn holders(&self) -> impl Iterator<Item = &K> {
        self.holders.keys()
    }

    /// A share of [`Self::turn`] that could not be sent after all.
    pub fn unsent(&mut self, key: &K, number: u64) {
        if let Some(holder) = self.holders.get_mut(key)
            && holder.under_way.is_some_and(|(sent, _)| sent == number)
        {
            holder.under_way = None;
        }
    }

    /// The shares that are to be sent now.
    pub fn turn(&mut self, now_ms: u64) -> Vec<Grant<K>> {
        let targets = self.targets(now_ms);
        let (_, held) = self.held();
        let pool = self.told_of.unwrap_or(Share {
            parts_per_million: WHOLE_PARTS_PER_MILLION,
            burst: self.whole.burst,
        });
        let mut free = Share {
            parts_per_million: pool
                .parts_per_million
                .saturating_sub(held.parts_per_million),
            burst: pool.burst.saturating_sub(held.burst),
        };
        // Who lacks most comes first.
        let mut order: Vec<(&K, Share)> =
            targets.iter().map(|(key, share)| (key, *share)).collect();
        let lack = |key: &K, target: Share| {
            let has = self.holders.get(key).map(|holder| holder.in_force);
            let has = has.unwrap_or_default();
            let parts = target
                .parts_per_million
                .saturating_sub(has.parts_per_million);
            (has.burst == 0 && target.burst > 0, parts)
        };
        order.sort_by_cached_key(|(key, target)| std::cmp::Reverse(lack(key, *target)));
        let order: Vec<(K, Share)> = order
            .into_iter()
            .map(|(key, to)| (key.clone(), to))
            .collect();
        let mut grants = Vec::new();
        for (key, target) in order {
            let Some(holder) = self.holders.get_mut(&key) else {
                continue;
            };
            if holder.under_way.is_some() {
                continue;
            }
            let share = toward(holder.in_force, target, free);
            if !is_worth(holder.in_force, share) {
                continue;
            }
            let more = |now: u32, before: u32| now.saturating_sub(before);
            let before = holder.in_force;
            free.parts_per_million -= more(share.parts_per_million, before.parts_per_million);
            free.burst -= more(share.burst, before.burst);
            holder.last_grant += 1;
            holder.under_way = Some((holder.last_grant, share));
            grants.push(Grant {
                holder: key,
                number: holder.last_grant,
                share,
            });
        }
        grants
    }

    /// What everybody should have who can be told so.
    fn targets(&self, now_ms: u64) -> BTreeMap<K, Share> {
        let mut out_of_reach = Share::default();
        let mut wants: Vec<(&K, u64)> = Vec::new();
        for (key, holder) in &self.holders {
            if holder.connected {
                wants.push((key, holder.wants(now_ms)));
            } else {
                let most = holder.most();
                out_of_reach.parts_per_million = out_of_reach
                    .parts_per_million
                    .saturating_add(most.parts_per_million);
                out_of_reach.burst = out_of_reach.burst.saturating_add(most.burst);
            }
        }
        let pool = self.told_of.unwrap_or(Share {
            parts_per_million: WHOLE_PARTS_PER_MILLION,
            burst: self.whole.burst,
        });
        let parts = pool
            .parts_per_million
            .saturating_sub(out_of_reach.parts_per_million);
        let burst = pool.burst.saturating_sub(out_of_reach.burst);
        // A share without a burst lets nothing through.
        wants.sort_by_key(|(_, want)| std::cmp::Reverse(*want));
        let mut targets: BTreeMap<K, Share> = BTreeMap::new();
        for (key, _) in wants.iter().skip(burst as usize) {
            targets.insert((*key).clone(), Share::default());
        }
        wants.truncate(burst as usize);
        let rates = fair(&wants, u64::from(parts));
        let bursts = whole_numbers(&rates, burst);
        for (((key, _), parts), burst) in wants.iter().zip(rates).zip(bursts) {
            let share = Share {
                parts_per_million: u32::try_from(parts).unwrap_or(WHOLE_PARTS_PER_MILLION),
                burst,
            };
            targets.insert((*key).clone(), share);
        }
        targets
    }
}

impl Holder {
    /// Takes what was asked into what it wants.
    fn measure(&mut self, whole: Whole, told: Told, now_ms: u64) {
        // One that was silent has forgotten what it wanted.
        self.demand = self.wants(now_ms);
        self.heard_ms = now_ms;
        self.asked = self.asked.saturating_add(told.asked);
        self.over_ms = self.over_ms.saturating_add(told.over_ms);
        if self.over_ms < MEASURE_MS {
            return;
        }
        let limit = u64::from(whole.requests)
            .saturating_mul(self.over_ms)
            .max(1);
        let parts = u128::from(self.asked) * u128::from(whole.per_ms) * 1_000_000;
        let wanted = u64::try_from(parts / u128::from(limit)).unwrap_or(u64::MAX);
        // More than all of it several times over is all of it.
        let wanted = wanted.min(8 * u64::from(WHOLE_PARTS_PER_MILLION));
        self.demand = (self.demand + 3 * wanted) / 4;
        (self.asked, self.over_ms) = (0, 0);
    }
}

/// Max-min fair: who wants less than its part gets that and some more, and what is left over is
/// shared by all.
fn fair(wants: &[(impl Sized, u64)], parts: u64) -> Vec<u64> {
    let count = wants.len() as u64;
    if count == 0 {
        return Vec::new();
    }
    let idle = (IDLE_PARTS.min(parts / 100) / count).max(1);
    let needs: Vec<u64> = wants
        .iter()
        .map(|(_, want)| want + want / 32 + idle)
        .collect();
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|at| needs[*at]);
    let mut given = vec![0; needs.len()];
    let (mut left, mut others) = (parts, count);
    for at in order {
        let part = left / others;
        given[at] = needs[at].min(part);
        left -= given[at];
        others -= 1;
    }
    let each = left / count;
    given.iter_mut().for_each(|given| *given += each);
    given
}

/// As many as the burst says, by the rates; at least one for each.
fn whole_numbers(rates: &[u64], burst: u32) -> Vec<u32> {
    let count = u32::try_from(rates.len()).unwrap_or(u32::MAX);
    let spare = u64::from(burst.saturating_sub(count));
    let sum: u64 = rates.iter().sum::<u64>().max(1);
    let part = |rate: &u64| u32::try_from(spare * rate / sum).unwrap_or(0);
    rates.iter().map(|rate| 1 + part(rate)).collect()
}

/// From what it has to what it should have: down at once, up as far as there is something free.
fn toward(has: Share, target: Share, free: Share) -> Share {
    let step = |has: u32, target: u32, free: u32| match target.checked_sub(has) {
        Some(more) => has + more.min(free),
        None => target,
    };
    Share {
        parts_per_million: step(
            has.parts_per_million,
            target.parts_per_million,
            free.parts_per_million,
        ),
        burst: step(has.burst, target.burst, free.burst),
    }
}

/// Whether a share is so much another one that it is worth a message.
fn is_worth(before: Share, now: Share) -> bool {
    let parts = u64::from(before.parts_per_million.abs_diff(now.parts_per_million));
    let least = LEAST_CHANGE.max(u64::from(before.parts_per_million) / LEAST_PART);
    let is_first = (before.burst == 0) != (now.burst == 0)
        || (before.parts_per_million == 0) != (now.parts_per_million == 0);
    let bursts = u64::from(before.burst.abs_diff(now.burst));
    is_first || parts >= least || bursts > u64::from(before.burst) / 8 + 1
}

#[cfg(test)]
mod tests;

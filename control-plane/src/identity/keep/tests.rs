use std::sync::Mutex;

use super::*;
use crate::identity::record::Record;

const NOW: u64 = 1_800_000_000;
const LIFETIME: u64 = 3_600;

/// What two replicas share.
#[derive(Default)]
struct Shared {
    material: Option<Material>,
    record: String,
    version: u64,
    refuses_records: bool,
}

/// One replica's view of it.
#[derive(Clone, Default)]
struct Memory {
    shared: Arc<Mutex<Shared>>,
    seen: u64,
    is_brought: bool,
}

#[tonic::async_trait]
impl Place for Memory {
    async fn look(&mut self, _: Duration) -> Result<Seen, PlaceError> {
        let shared = self.shared.lock().unwrap();
        self.seen = shared.version;
        Ok(Seen {
            ca: shared
                .material
                .clone()
                .map_or(Written::Missing, Written::Material),
            record: shared.record.clone(),
        })
    }

    async fn create(&mut self, material: &Material) -> Result<(), PlaceError> {
        let mut shared = self.shared.lock().unwrap();
        if shared.material.is_some() {
            return Err(PlaceError::Conflict);
        }
        shared.material = Some(material.clone());
        Ok(())
    }

    async fn write_record(&mut self, text: &str) -> Result<(), PlaceError> {
        let mut shared = self.shared.lock().unwrap();
        if shared.refuses_records {
            return Err(PlaceError::Failed("not allowed".to_owned()));
        }
        if shared.version != self.seen {
            return Err(PlaceError::Conflict);
        }
        shared.version += 1;
        text.clone_into(&mut shared.record);
        Ok(())
    }

    fn generates(&self) -> bool {
        !self.is_brought
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

struct Replica {
    keeper: Keeper,
    place: Memory,
    trust: watch::Receiver<Option<Arc<Trust>>>,
}

impl Replica {
    fn new(place: &Memory) -> Self {
        let (sender, trust) = watch::channel(None);
        let keeping = Keeping {
            trust_domain: "cluster.local".to_owned(),
            lifetime_seconds: LIFETIME,
            trust: sender,
            figures: Arc::default(),
        };
        Self {
            keeper: Keeper {
                keeping,
                rotation: None,
                material: None,
                record: Record::default(),
                complaints: BTreeMap::new(),
            },
            place: place.clone(),
            trust,
        }
    }

    async fn step(&mut self, now: u64) -> Duration {
        let seen = self.place.look(Duration::ZERO).await.unwrap();
        self.keeper.step(seen, &mut self.place, now).await
    }

    fn trust(&self) -> Arc<Trust> {
        self.trust.borrow().clone().unwrap()
    }

    fn is_wrong(&self) -> bool {
        self.keeper
            .keeping
            .figures
            .ca_is_wrong
            .load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn two_replicas_that_start_at_once_agree_on_one_root() {
    let place = Memory::default();
    let (mut one, mut two) = (Replica::new(&place), Replica::new(&place));
    // Both have seen nothing before either writes.
    let nothing = one.place.look(Duration::ZERO).await.unwrap();
    two.step(NOW).await;
    assert_eq!(one.keeper.step(nothing, &mut one.place, NOW).await, RETRY);
    assert!(!one.is_wrong(), "to lose is nothing wrong");
    one.step(NOW).await;
    two.step(NOW).await;
    assert_eq!(one.trust().record, two.trust().record);
    assert!(one.trust().issuing.issues_like(&two.trust().issuing));
}

#[tokio::test]
async fn a_replaced_root_is_trusted_until_its_last_leaf_is_past_by_every_replica() {
    let place = Memory::default();
    let (mut one, mut two) = (Replica::new(&place), Replica::new(&place));
    for replica in [&mut one, &mut two] {
        replica.step(NOW).await;
        replica.step(NOW).await;
    }
    let first = one.trust();
    let new = Material::generate("cluster.local", [9; 16], NOW).unwrap();
    place.shared.lock().unwrap().material = Some(new);
    one.step(NOW + 5).await;
    // The other one sees it later, and yet goes by the same end.
    two.step(NOW + 9).await;
    let until = NOW + 5 + PROPAGATION_SECONDS + LIFETIME + MARGIN_SECONDS;
    for replica in [&one, &two] {
        let trust = replica.trust();
        assert!(
            trust.issuing.issues_like(&first.issuing),
            "peers do not know the new root yet"
        );
        assert_eq!(trust.record.0.len(), 2);
        assert_eq!(trust.record.next_end(), Some(until));
        assert_eq!(trust.bundle().roots.len(), 2);
    }
    assert_eq!(one.step(NOW + 6).await.as_secs(), PROPAGATION_SECONDS - 1);
    one.step(NOW + 5 + PROPAGATION_SECONDS).await;
    assert!(!one.trust().issuing.issues_like(&first.issuing));
    // One that starts now knows of the former root too.
    let mut third = Replica::new(&place);
    third.step(NOW + 100).await;
    assert_eq!(third.trust().record, one.trust().record);
    for replica in [&mut one, &mut third] {
        replica.step(until - 1).await;
        assert_eq!(replica.trust().record.0.len(), 2);
        replica.step(until).await;
        assert_eq!(replica.trust().record.0.len(), 1);
    }
}

#[tokio::test]
async fn a_root_that_was_replaced_while_nobody_ran_is_former_too() {
    let place = Memory::default();
    let mut one = Replica::new(&place);
    one.step(NOW).await;
    one.step(NOW).await;
    drop(one);
    let new = Material::generate("cluster.local", [9; 16], NOW).unwrap();
    place.shared.lock().unwrap().material = Some(new);
    let mut next = Replica::new(&place);
    next.step(NOW + 1_000).await;
    assert_eq!(next.trust().record.0.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_or_gone_leaves_the_last_good_one_in_force() {
    let place = Memory {
        is_brought: true,
        ..Memory::default()
    };
    let mut one = Replica::new(&place);
    one.step(NOW).await;
    assert!(
        one.trust.borrow().is_none() && one.is_wrong(),
        "it is waited for"
    );
    let good = Material::generate("cluster.local", [1; 16], NOW).unwrap();
    place.shared.lock().unwrap().material = Some(good.clone());
    one.step(NOW).await;
    assert!(!one.is_wrong());
    let before = one.trust();
    let mut broken = good;
    broken.key = b"x".to_vec();
    for bad in [Some(broken), None] {
        place.shared.lock().unwrap().material = bad;
        one.step(NOW + 1).await;
        assert!(one.is_wrong());
        assert!(Arc::ptr_eq(&one.trust().issuing, &before.issuing));
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_written_or_is_taken_away_still_counts() {
    let place = Memory::default();
    let mut one = Replica::new(&place);
    one.step(NOW).await;
    one.step(NOW).await;
    {
        let mut shared = place.shared.lock().unwrap();
        shared.refuses_records = true;
        shared.record.clear();
        shared.material = Some(Material::generate("cluster.local", [9; 16], NOW).unwrap());
    }
    one.step(NOW + 1).await;
    let end = one.trust().record.next_end().unwrap();
    one.step(NOW + 50).await;
    assert_eq!(
        one.trust().record.next_end(),
        Some(end),
        "and does not move"
    );
    assert!(one.is_wrong());
    place.shared.lock().unwrap().refuses_records = false;
    one.step(NOW + 60).await;
    let written = Record::read(&place.shared.lock().unwrap().record);
    assert_eq!(written.next_end(), Some(end));
}

//! Variants, held to a naive model: a node is told of a name when what it would
//! find under it is another resource than before, and else it is not.

use proptest::prelude::*;
use remora_proto::v1;

use super::*;

const NAMESPACES: [&str; 3] = ["shop", "team", "other"];
const NAME: &str = "shop/web";

fn resource(content: u32) -> Resource {
    let message = v1::ServicePort {
        port: content,
        ..v1::ServicePort::default()
    };
    let alias = "address/10.0.0.1".into();
    Resource::new(
        ResourceType::Service,
        NAME.into(),
        vec![alias],
        None,
        &message,
    )
}

#[derive(Clone, Debug)]
enum Step {
    Set(u32, Vec<(usize, u32)>),
    Remove,
}

fn step() -> impl Strategy<Value = Step> {
    let variants = proptest::collection::vec((0..NAMESPACES.len(), 0u32..3), 0..3);
    prop_oneof![
        9 => (0u32..3, variants).prop_map(|(general, variants)| Step::Set(general, variants)),
        1 => Just(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn who_finds_the_same_as_before_is_not_woken_and_who_does_not_is(
        steps in proptest::collection::vec(step(), 1..30)
    ) {
        let store = Store::default();
        let kind = ResourceType::Service;
        let mailboxes = NAMESPACES.map(|namespace| Arc::new(Mailbox::of(namespace)));
        let names = [Name::from(NAME), Name::from("address/10.0.0.1")];
        for mailbox in &mailboxes {
            for name in &names {
                store.watch(kind, name, mailbox);
            }
        }
        let found = |namespace: &str| {
            let found = store.find_for(kind, NAME, namespace);
            let by_alias = store.find_for(kind, &names[1], namespace);
            assert_eq!(found, by_alias);
            found.map(|found| found.version.clone())
        };
        for step in steps {
            let before = NAMESPACES.map(found);
            let mut model: BTreeMap<&str, u32> = BTreeMap::new();
            match &step {
                Step::Set(general, variants) => {
                    model.extend(NAMESPACES.map(|namespace| (namespace, *general)));
                    let own = variants.iter().map(|(at, content)| (NAMESPACES[*at], *content));
                    model.extend(own.clone());
                    let own = own.map(|(namespace, content)| (namespace.into(), resource(content)));
                    store.set_variants(kind, resource(*general), own.collect());
                }
                Step::Remove => store.remove(kind, NAME),
            }
            for ((namespace, mailbox), before) in NAMESPACES.iter().zip(&mailboxes).zip(before) {
                let now = found(namespace);
                let wanted = model.get(namespace).map(|content| resource(*content).version);
                prop_assert_eq!(&now, &wanted);
                let told = mailbox.take().len();
                prop_assert_eq!(told, if now == before { 0 } else { 2 }, "{} {:?}", namespace, step);
            }
        }
    }
}

//! What is chosen of the interfaces of a host, entry by entry.

use gnomon_capture::LinkType;

use super::*;

fn interface(index: u32, name: &str, kind: Kind) -> Interface {
    Interface {
        name: name.into(),
        index,
        kind,
        link: LinkType::Ethernet,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        addresses: Vec::new(),
        default_route: false,
        master: None,
        lower: None,
        queues: 1,
        queues_max: 1,
        driver: None,
        speed_mbps: None,
        xdp_program: None,
        strips_vlan: false,
    }
}

fn host() -> Vec<Interface> {
    let mut all = vec![
        interface(1, "lo", Kind::Loopback),
        interface(2, "eth0", Kind::Physical),
        interface(3, "docker0", Kind::Stacked("bridge".into())),
        interface(4, "veth1", Kind::Veth),
        interface(5, "wg0", Kind::Virtual("wireguard".into())),
        interface(6, "eth1", Kind::Physical),
    ];
    all[0].addresses = vec!["127.0.0.1".parse().unwrap()];
    all[1].addresses = vec!["10.0.0.1".parse().unwrap()];
    all[4].addresses = vec!["10.8.0.1".parse().unwrap()];
    all[3].master = Some(3);
    all[5].up = false;
    all
}

const LIMITS: Limits = Limits { ring_bytes: 64 << 20, rings_bytes_max: 1 << 30, flows_max: 1 << 19 };

fn selection(entries: &[&str]) -> Selection {
    let entries: Vec<_> = entries.iter().map(|name| InterfaceConfig::named(name)).collect();
    Selection::new(&entries, LIMITS).unwrap()
}

fn names(decision: &Decision) -> Vec<&str> {
    let mut names: Vec<_> = decision.chosen.iter().map(|chosen| chosen.interface.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn left_out<'a>(decision: &'a Decision, name: &str) -> &'a LeftOut {
    decision.left_out.iter().find(|left| left.name == name).unwrap_or_else(|| panic!("{name}: {decision:?}"))
}

#[test]
fn names_patterns_classes_and_exclusions_choose() {
    for (entries, chosen) in [
        (&["eth0"][..], &["eth0"][..]),
        (&["veth*", "eth0"], &["eth0", "veth1"]),
        (&["eth[0-9]"], &["eth0", "eth1"]),
        (&["nic"], &["eth0"]),
        (&["addressed"], &["eth0", "wg0"]),
        (&["all"], &["docker0", "eth0", "lo", "veth1", "wg0"]),
        (&["all", "!docker0", "!veth*", "!lo"], &["eth0", "wg0"]),
        (&["!nic", "all"], &["docker0", "lo", "veth1", "wg0"]),
        // The agent's own picking, and less than that.
        (&[], &["eth0"]),
        (&["!eth*"], &[]),
        (&["!docker0"], &["eth0"]),
    ] {
        let decision = selection(entries).decide(host(), &BTreeSet::new());
        assert_eq!(names(&decision), chosen, "{entries:?}");
        let there = decision.chosen.len() + decision.left_out.iter().filter(|left| !left.is_named).count();
        assert!(there >= host().len() - 1, "each is chosen or left out: {decision:?}");
    }
}

#[test]
fn the_first_entry_that_matches_says_how_and_no_interface_is_taken_twice() {
    let named = InterfaceConfig { workers: 3, ..InterfaceConfig::named("eth0") };
    let selection = Selection::new(&[named, InterfaceConfig::named("eth*")], LIMITS).unwrap();
    let decision = selection.decide(host(), &BTreeSet::new());
    assert_eq!(names(&decision), ["eth0", "eth1"]);
    assert_eq!(decision.chosen[0].settings.workers, 3);
}

#[test]
fn what_is_missing_is_said_and_waited_for() {
    let decision = selection(&["nosuch", "ppp*", "eth0"]).decide(host(), &BTreeSet::new());
    assert!(left_out(&decision, "nosuch").is_named && !left_out(&decision, "ppp*").is_named);
    assert!(left_out(&decision, "ppp*").reason.contains("waited for"));
    assert!(left_out(&decision, "docker0").reason.contains("no entry"));
}

#[test]
fn a_captured_interface_that_goes_down_stays() {
    let mut down = host();
    down[1].up = false;
    for entries in [&["nic"][..], &[]] {
        assert!(!names(&selection(entries).decide(down.clone(), &BTreeSet::new())).contains(&"eth0"));
        assert_eq!(names(&selection(entries).decide(down.clone(), &BTreeSet::from([2]))), ["eth0"]);
    }
}

#[test]
fn what_is_seen_twice_is_said() {
    let decision = selection(&["docker0", "veth*"]).decide(host(), &BTreeSet::new());
    let twice = |name: &str| {
        let chosen = decision.chosen.iter().find(|chosen| chosen.interface.name == name).unwrap();
        chosen.seen_twice.clone()
    };
    assert!(twice("veth1").unwrap().contains("docker0"));
    assert_eq!(twice("docker0"), None);
}

#[test]
fn workers_and_memory_are_bounded_and_names_come_first() {
    let pairs: Vec<_> = (1..=400).map(|n| interface(n, &format!("veth{n}"), Kind::Veth)).collect();
    let decision = selection(&["veth*", "veth400"]).decide(pairs, &BTreeSet::from([300]));
    assert_eq!((decision.chosen.len(), decision.left_out.len()), (WORKERS_MAX, 400 - WORKERS_MAX));
    assert_eq!(decision.chosen[0].interface.name, "veth300");
    assert!(decision.left_out[0].reason.contains("workers"));
    assert!(decision.chosen.iter().all(|chosen| chosen.ring_bytes == PAIR_RING_BYTES));
    let cards: Vec<_> = (1..=20).map(|n| interface(n, &format!("eth{n}"), Kind::Physical)).collect();
    let decision = selection(&["nic"]).decide(cards, &BTreeSet::new());
    assert_eq!(decision.chosen.len(), 16);
    assert!(decision.left_out[0].reason.contains("capture.rings_bytes_max"));
}

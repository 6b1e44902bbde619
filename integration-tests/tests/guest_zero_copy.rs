//! A real zero-copy driver: every frame through it is counted, and where it cannot do it the agent says why and captures
//! all the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use gnomon_integration_tests::fleet::eventually;
use gnomon_integration_tests::guest::machine::Rtc;
use gnomon_integration_tests::guest::parts::Parts;
use gnomon_integration_tests::guest::scene::Scene;
use gnomon_integration_tests::guest::wire::udp_frame;

/// Frames of each size on each card.
const FRAMES: u64 = 2_000;

/// Frames under way at most. Fewer than a ring holds, so that nothing is lost however slow this machine is: what is
/// tested is that all are counted, not speed.
const BATCH: u64 = 500;
/// Packets are kept by their headers only: what they carry has a queue of its own, which may sacrifice.
const SETTINGS: [&str; 2] = ["capture.ring_frames=4096", "slices.keep=headers"];

/// It tells the card and the size apart.
fn port(card: usize, frame_bytes: usize) -> Result<u16> {
    Ok(u16::try_from((1 + card) * 10_000 + frame_bytes)?)
}

fn send_and_find(scene: &Scene, card: usize, frame_bytes: usize) -> Result<()> {
    let port = port(card, frame_bytes)?;
    let frame = udp_frame(40_000, port, frame_bytes);
    let mut sent = 0;
    while sent < FRAMES {
        for _ in 0..BATCH {
            scene.machine.cards[card].wire.send(&frame)?;
        }
        sent += BATCH;
        let what = format!("{sent} frames of {frame_bytes} B on eth{} in flow records", card + 1);
        let count = || scene.collector.count(&format!("port.dst == {port}"));
        let counted = eventually(&what, 30, count, |counted| counted.1 >= sent);
        let (_, packets, bytes) = counted.with_context(|| format!("drops: {:?}", scene.drops()))?;
        assert_eq!((packets, bytes), (sent, sent * frame_bytes as u64), "{what}");
    }
    Ok(())
}

#[test]
fn every_frame_through_a_zero_copy_driver_is_counted() -> Result<()> {
    let parts = match Parts::find() {
        Ok(parts) => parts,
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            return Ok(());
        }
    };
    // eth1 can; eth2 is the negative control; eth3 has frames that no driver takes without copying.
    let mut scene = Scene::boot(&parts, Rtc::Utc, &[true, false, true])?;
    scene.machine.run("ip link set eth3 mtu 9000")?;
    let interfaces = ["eth1", "eth2", "eth3"]
        .map(|name| format!("name = \"{name}\", stance = \"tap\", backend = \"af_xdp\""));
    scene.start_agent(&interfaces.each_ref().map(String::as_str), &SETTINGS)?;
    let mode = |name: &str| -> Result<String> {
        let mode = eventually("the mode in the heartbeat", 30, || scene.mode(name), Option::is_some)?
            .unwrap_or_default();
        println!("{}, {name}: {mode}", parts.kernel());
        Ok(mode)
    };
    let begins = |mode: &str, rung: &str, refused: &str| {
        assert!(mode.starts_with(&format!("{rung},")) && mode.contains(refused), "{mode}");
    };
    begins(&mode("eth1")?, "af_xdp zero-copy", "not af_xdp zero-copy multi-buffer: binding queue 0");
    begins(
        &mode("eth2")?,
        "af_xdp copy multi-buffer",
        "not af_xdp zero-copy: binding queue 0: Invalid argument",
    );
    begins(&mode("eth3")?, "af_xdp copy multi-buffer", "not af_xdp zero-copy: frames of MTU 9000 do not fit");

    let cards: [&[usize]; 3] = [&[64, 1514], &[64, 1514], &[64, 1514, 9014]];
    for (card, sizes) in cards.into_iter().enumerate() {
        for bytes in sizes {
            send_and_find(&scene, card, *bytes)?;
        }
    }
    assert_eq!(scene.drops()?, BTreeMap::new(), "drops that the agent counted");
    Ok(())
}

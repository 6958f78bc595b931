//! Real listeners and clients before machines that answer with their name.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use mesh::net::End;
use proto::id::SessionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    access::balance::{Dial, MOST_EACH, Reach, Targets},
    host::limits,
};

/// A dialer whose machines answer with their name, except those that are away.
fn dial(away: &'static [&'static str]) -> Dial {
    Arc::new(move |_, machine, _| {
        Box::pin(async move {
            if away.contains(&machine.to_string().as_str()) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move { far.write_all(machine.to_string().as_bytes()).await });
            Ok(Box::new(near) as Box<dyn End>)
        })
    })
}

fn forwards(
    dir: &tempfile::TempDir,
    away: &'static [&'static str],
    ready: &'static [&'static str],
) -> Forwards {
    let targets: Targets = Arc::new(move |_, _| ready.iter().map(|name| name.parse().unwrap()).collect());
    let shares = Shares { api: 1, names: 1, forwarded: 2, listening: 8, browsing: 1, proxied: 1 };
    let ways = Ways { dial: dial(away), targets, reach: reach() };
    Forwards::new(HostId([1; 32]), dir.path().join("forward.json"), ways, shares)
}

/// Hosts that say whom one has reached.
fn reach() -> Reach {
    Arc::new(|host, port| {
        Box::pin(async move {
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move { far.write_all(format!("{host}:{port}").as_bytes()).await });
            Ok(Box::new(near) as Box<dyn End>)
        })
    })
}

async fn ask(address: SocketAddrV4) -> String {
    let mut text = String::new();
    let mut client = TcpStream::connect(address).await.unwrap();
    // A reset is an empty answer here.
    let _ended = client.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn a_connection_goes_to_the_first_machine_that_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (session, label) = (SessionId([5; 16]), "web");
    let forwards = forwards(&dir, &["web-1"], &["web-1", "web-2"]);
    let found = forwards.open((session, label), [0x5eed_u16]).await.unwrap();
    assert_eq!(ask(found[&Port::from(0x5eed)]).await, "web-2");
}

#[tokio::test]
async fn ports_that_nobody_uses_take_nothing_from_those_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let forwards = forwards(&dir, &[], &["web-1"]);
    let ports = [0x5ef1_u16, 0x5ef2, 0x5ef3, 0x5ef4, 0x5ef5];
    let found = forwards.open((SessionId([10; 16]), "web"), ports).await.unwrap();
    for _ in 0..2 {
        for here in found.values() {
            let answer = tokio::time::timeout(Duration::from_secs(10), ask(*here)).await;
            assert_eq!(answer.as_deref(), Ok("web-1"), "{here}");
        }
    }
}

#[tokio::test]
async fn without_a_ready_machine_the_connection_is_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (session, label) = (SessionId([6; 16]), "web");
    let forwards = forwards(&dir, &[], &[]);
    let found = forwards.open((session, label), [0x5eee_u16]).await.unwrap();
    assert_eq!(ask(found[&Port::from(0x5eee)]).await, "");
}

#[tokio::test]
async fn a_taken_port_gets_a_stand_in_that_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (session, label) = (SessionId([7; 16]), "web");
    let one = forwards(&dir, &[], &["web-1"]);
    let address = one.address((session, label)).unwrap();
    let taken = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let here = one.open((session, label), [port]).await.unwrap()[&Port::from(port)];
    assert_ne!(here.port(), port);
    drop(one);
    drop(taken);
    let again = forwards(&dir, &[], &["web-1"]);
    assert_eq!(again.address((session, label)), Some(address));
    assert_eq!(again.port_here((session, label), port), here.port());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_for_twice_at_once_it_is_one_listener() {
    let dir = tempfile::tempdir().unwrap();
    let session = SessionId([9; 16]);
    let forwards = forwards(&dir, &[], &["web-1"]);
    let asking = (0..20).map(|_| {
        let forwards = forwards.clone();
        tokio::spawn(async move { forwards.open((session, "web"), [0x5ef0_u16]).await.unwrap() })
    });
    for found in futures::future::join_all(asking).await {
        assert_eq!(found.unwrap()[&Port::from(0x5ef0)].port(), 0x5ef0);
    }
}

#[tokio::test]
async fn idle_forwards_give_their_ports_back() {
    let dir = tempfile::tempdir().unwrap();
    let (session, label) = (SessionId([8; 16]), "web");
    let forwards = forwards(&dir, &[], &["web-1"]);
    let found = forwards.open((session, label), [0x5eef_u16]).await.unwrap();
    forwards.sweep(Instant::now());
    assert_eq!(ask(found[&Port::from(0x5eef)]).await, "web-1");
    forwards.sweep(Instant::now() + 2 * IDLE);
    assert!(forwards.listening((session, label), 0x5eef_u16).is_none());
}

#[tokio::test]
async fn what_was_opened_by_hand_stays_over_restarts_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (session, label, port) = (SessionId([12; 16]), "web", 0x5eff_u16);
    let first = forwards(&dir, &[], &["web-1"]);
    let here = first.hold((session, label), port).await.unwrap();
    first.open_held().await;
    first.sweep(Instant::now());
    assert_eq!(first.listening((session, label), port), Some(here));
    // As the end of the process would.
    lock(&first.inner.open).clear();
    while std::net::TcpListener::bind(here).is_err() {
        tokio::task::yield_now().await;
    }

    let again = forwards(&dir, &[], &["web-1"]);
    assert_eq!(again.listening((session, label), port), None);
    again.open_held().await;
    assert_eq!(again.listening((session, label), port), Some(here));
    assert_eq!(ask(here).await, "web-1");

    assert!(again.close((session, label), port));
    assert!(!again.close((session, label), port), "there is nothing to close any more");
    again.open_held().await;
    assert_eq!(again.listening((session, label), port), None);
}

#[tokio::test]
async fn what_another_host_publishes_has_an_address_of_its_own_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (nas, attic) = (HostId([7; 32]), HostId([8; 32]));
    let first = forwards(&dir, &[], &["web-1"]);
    let found = first.open(nas, [0x5f00_u16]).await.unwrap();
    assert_eq!(ask(found[&Port::from(0x5f00)]).await, format!("{nas}:{}", 0x5f00));
    let (to_nas, to_attic) = (first.address(nas), first.address(attic));
    let to_web = first.address((SessionId([13; 16]), "web"));
    assert_eq!(BTreeSet::from([to_nas, to_attic, to_web]).len(), 3);

    let again = forwards(&dir, &[], &[]);
    assert_eq!(again.address(nas), to_nas);
    again.keep(|place| *place != Place::Host(attic));
    assert_eq!(again.inner.places.address(&Place::Host(attic)), None);
    assert_eq!(again.address((SessionId([13; 16]), "web")), to_web);
}

/// A machine that counts how many are connected at once, and answers each after a moment.
fn counting(now: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> Dial {
    let (now, most) = (now.clone(), most.clone());
    Arc::new(move |_, _, _| {
        let (now, most) = (now.clone(), most.clone());
        Box::pin(async move {
            let (near, mut far) = tokio::io::duplex(1024);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                far.write_all(b"served").await.ok();
                now.fetch_sub(1, Ordering::SeqCst);
            });
            Ok(Box::new(near) as Box<dyn End>)
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once_wait_for_their_turn_and_all_are_served() {
    limits::raise();
    let dir = tempfile::tempdir().unwrap();
    let (now, most) = (Arc::default(), Arc::default());
    let targets: Targets = Arc::new(|_, _| vec!["web-1".parse().unwrap()]);
    let ways = Ways { dial: counting(&now, &most), targets, reach: reach() };
    let shares = Shares { api: 1, names: 1, forwarded: 1000, listening: 8, browsing: 1, proxied: 1 };
    let forwards = Forwards::new(HostId([1; 32]), dir.path().join("forward.json"), ways, shares);
    let here = forwards.open((SessionId([14; 16]), "web"), [0x5f01_u16]).await.unwrap()[&Port::from(0x5f01)];
    let asked = futures::future::join_all((0..1000).map(|_| tokio::spawn(ask(here))));
    let answers = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("all of them in time");
    let served = answers.into_iter().filter(|answer| answer.as_ref().unwrap() == "served").count();
    assert_eq!(served, 1000);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=MOST_EACH).contains(&most), "{most} at once");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let forwards = forwards(&dir, &[], &["web-1"]);
    let place = (SessionId([15; 16]), "web");
    let mut taken = Vec::new();
    for _ in 0..MOST_EACH {
        taken.push(forwards.connect(place, 80_u16).await.unwrap());
    }
    let Err(refused) = forwards.connect(place, 80_u16).await else { panic!("one too many") };
    assert!(refused.to_string().starts_with("web-1 has 96 connections from here"), "{refused}");
    assert_eq!(forwards.refused(place), 1);
    let waits = tokio::spawn({
        let forwards = forwards.clone();
        async move { forwards.connect(place, 80_u16).await.is_ok() }
    });
    tokio::task::yield_now().await;
    taken.pop();
    assert!(waits.await.unwrap(), "its turn comes with the next end");
    assert_eq!(forwards.refused(place), 1);
    drop(taken);
    assert_eq!(forwards.connections(), 0);
}

//! One of three machines of a service is killed while the service is asked all the time: once that is known nobody new is led
//! to it, and who could not be connected to it before is connected to another one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tests::{Host, Place, eventually, http_get, kill, lab_or_skip, tiny_topology};

/// Those who ask at once, each one connection after the other.
const ASKERS: usize = 3;
/// Far longer than a page takes.
const SOON: Duration = Duration::from_secs(20);

/// One connection, and who answered it.
struct Asked {
    begun: Instant,
    page: Result<String, String>,
}

/// People who ask for the page, each time by a new connection, until they are told that it is enough.
struct Load {
    enough: Arc<AtomicBool>,
    askers: Vec<JoinHandle<Vec<Asked>>>,
}

impl Load {
    fn on(address: SocketAddr) -> Load {
        let enough = Arc::new(AtomicBool::new(false));
        let askers = (0..ASKERS).map(|_| {
            let enough = enough.clone();
            thread::spawn(move || {
                let mut asked = Vec::new();
                while !enough.load(Relaxed) {
                    let begun = Instant::now();
                    asked.push(Asked { begun, page: http_get(address, "/").map(|(_, page)| page) });
                }
                asked
            })
        });
        Load { askers: askers.collect(), enough }
    }

    fn ended(self) -> Vec<Asked> {
        self.enough.store(true, Relaxed);
        self.askers.into_iter().flat_map(|asker| asker.join().expect("it only asks")).collect()
    }
}

/// Counts pages by the machine that made them.
fn answered<'a>(asked: impl Iterator<Item = &'a Asked>) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for page in asked.filter_map(|asked| asked.page.as_ref().ok()) {
        let machine = ["web-1", "web-2", "web-3"].into_iter().find(|machine| page.contains(machine));
        *found.entry(machine.unwrap_or("nobody")).or_default() += 1;
    }
    found
}

#[test]
fn when_a_machine_of_three_is_killed_no_new_connection_fails_once_it_is_known() {
    if !lab_or_skip("when_a_machine_of_three_is_killed_no_new_connection_fails_once_it_is_known") {
        return;
    }
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 3))]).expect(0);
    let list = host.json(&["service", "list"]);
    let row = &list["services"][0];
    let text = |key: &str| row[key].to_string().replace('"', "");
    let here: SocketAddr =
        format!("{}:{}", text("address_here"), text("port_here")).parse().expect("an address");

    let load = Load::on(here);
    let asks = |machine: &str| {
        eventually(SOON, &format!("{machine} answers"), || match http_get(here, "/")?.1 {
            page if page.contains(machine) => Ok(()),
            page => Err(page),
        });
    };
    ["web-1", "web-2", "web-3"].iter().for_each(|machine| asks(machine));
    let fallen = host.pids("web-2").qemu;
    let killed = Instant::now();
    kill(fallen);
    let row = host.leaves("web-2", "ready");
    let known = Instant::now();
    eprintln!("known {:?} after the kill: {row}", known - killed);
    // It is started again meanwhile, and led to only when it is ready.
    host.reaches("web-2", "ready");
    asks("web-2");

    let (later, before): (Vec<Asked>, Vec<Asked>) =
        load.ended().into_iter().partition(|asked| asked.begun > known);
    let failed = |asked: &[Asked]| -> Vec<String> {
        let failed = asked.iter().filter_map(|asked| Some((asked.begun, asked.page.as_ref().err()?)));
        failed.map(|(begun, error)| format!("{:?} after the kill: {error}", begun - killed)).collect()
    };
    eprintln!("{:?} before, {:?} after", answered(before.iter()), answered(later.iter()));
    let meanwhile = later.iter().chain(&before).filter(|asked| asked.begun > killed);
    assert!(answered(meanwhile).len() == 3, "all three were asked, the one that fell when it was back");
    assert_eq!(failed(&later), [""; 0], "nobody new is led to a machine that is not ready");
    // Who was connected to the machine when it fell is lost with it; one at a time of each asker.
    let lost = failed(&before);
    assert!(lost.len() <= ASKERS, "{lost:?}");
    assert!(before.iter().filter(|asked| asked.begun < killed).count() > 3 * ASKERS, "there was a load");
}

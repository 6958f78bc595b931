//! One of three machines of a service is killed while the service is asked all the time: once that is known nobody new is led
//! to it, and who could not be connected to it before is connected to another one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
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
    asked: Arc<Mutex<Vec<Asked>>>,
    askers: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(address: SocketAddr) -> Load {
        let (enough, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let askers = (0..ASKERS).map(|_| {
            let (enough, asked) = (enough.clone(), asked.clone());
            thread::spawn(move || {
                while !enough.load(Relaxed) {
                    let begun = Instant::now();
                    let page = http_get(address, "/").map(|(_, page)| page);
                    asked.lock().expect("askers only add").push(Asked { begun, page });
                }
            })
        });
        Load { askers: askers.collect(), enough, asked }
    }

    /// Waits until each of them asks for a while.
    fn is_on(&self) {
        eventually(SOON, "a load", || match self.asked.lock().expect("askers only add").len() {
            asked if asked > 10 * ASKERS => Ok(()),
            asked => Err(format!("{asked} pages")),
        });
    }

    /// Waits until one of them, who began after `since`, is answered by `machine`.
    fn hears(&self, machine: &str, since: Instant) {
        eventually(SOON, &format!("{machine} answers"), || {
            let asked = self.asked.lock().expect("askers only add");
            let heard = answered(asked.iter().filter(|asked| asked.begun > since));
            if heard.contains_key(machine) { Ok(()) } else { Err(format!("{heard:?}")) }
        });
    }

    fn ended(self) -> Vec<Asked> {
        self.enough.store(true, Relaxed);
        self.askers.into_iter().for_each(|asker| asker.join().expect("it only asks"));
        std::mem::take(&mut self.asked.lock().expect("nobody asks any more"))
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

    let (load, begun) = (Load::on(here), Instant::now());
    ["web-1", "web-2", "web-3"].iter().for_each(|machine| load.hears(machine, begun));
    load.is_on();
    let fallen = host.pids("web-2").qemu;
    let killed = Instant::now();
    kill(fallen);
    let row = host.leaves("web-2", "ready");
    let known = Instant::now();
    eprintln!("known {:?} after the kill: {row}", known - killed);
    // It is started again meanwhile, and led to only when it is ready.
    host.reaches("web-2", "ready");
    load.hears("web-2", known);

    let (later, before): (Vec<Asked>, Vec<Asked>) =
        load.ended().into_iter().partition(|asked| asked.begun > known);
    let failed = |asked: &[Asked]| -> Vec<String> {
        let failed = asked.iter().filter_map(|asked| Some((asked.begun, asked.page.as_ref().err()?)));
        failed.map(|(begun, error)| format!("{:?} after the kill: {error}", begun - killed)).collect()
    };
    eprintln!("{:?} before, {:?} after", answered(before.iter()), answered(later.iter()));
    assert_eq!(answered(later.iter()).len(), 3, "all three were asked, the one that fell when it was back");
    assert_eq!(failed(&later), [""; 0], "nobody new is led to a machine that is not ready");
    // Who was connected to the machine when it fell is lost with it; one at a time of each asker.
    let lost = failed(&before);
    assert!(lost.len() <= ASKERS, "{lost:?}");
}

//! The files of a topology travel by their hashes, once to a host, however many machines there have them: more
//! bytes than any message holds reach three machines of one remote host.

use std::{collections::BTreeSet, fs};

use tests::{Lab, lab_or_skip};

const FILES: usize = 12;
const BYTES: usize = 250 * 1024;

#[test]
fn many_large_files_reach_three_machines_of_another_host_and_lie_there_once() {
    if !lab_or_skip("many_large_files_reach_three_machines_of_another_host_and_lie_there_once") {
        return;
    }
    let lab = Lab::joined();
    lab.nas.import_tiny();
    let mut files = String::new();
    for number in 0..FILES {
        let line = format!("this is line after line of file {number}\n");
        let text: String = line.chars().cycle().take(BYTES).collect();
        fs::write(lab.vps.scratch().join(format!("{number}.txt")), text).expect("a file");
        files += &format!("\"/srv/{number}.txt\" = \"{number}.txt\"\n");
    }
    let topology = format!(
        "session = \"shop\"\n[machines.web]\nimage = \"tiny\"\nmemory = \"192MiB\"\ncount = 3\n\
         place = {{ hosts = [\"nas\"] }}\n[machines.web.files]\n{files}"
    );
    let file = lab.vps.topology(&topology);
    lab.vps.agent(&["session", "up", &file]).expect(0);

    let wanted = format!("{}\n", FILES * BYTES);
    for machine in ["web-1", "web-2", "web-3"] {
        assert_eq!(lab.vps.ssh(machine, "cat /srv/*.txt | wc -c"), wanted, "{machine}");
        let last = lab.vps.ssh(machine, &format!("head -n 1 /srv/{}.txt", FILES - 1));
        assert_eq!(last, format!("this is line after line of file {}\n", FILES - 1), "{machine}");
    }
    let kept = lab.nas.session_dir().join("contents");
    let names: BTreeSet<_> = fs::read_dir(&kept)
        .expect("the contents of the session")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), FILES, "{names:?}");

    lab.vps.agent(&["session", "down", "shop", "--yes"]).expect(0);
    for host in lab.hosts() {
        assert!(host.session_dirs().is_empty(), "{}", host.name);
    }
}

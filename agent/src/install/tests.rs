//! What is written, run and said when the agent is installed and removed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use expect_test::{Expect, expect};

use super::{
    Scope,
    carry::{self, Root},
    layout::Layout,
    plan::{self, Computer, Linger, Pages, Plan},
    unit,
};

fn pages() -> Pages {
    let completions = ["bash", "zsh", "fish"].map(str::to_owned);
    Pages { completions, manual: vec![("agent.1".into(), ".TH agent".into())] }
}

fn seen() -> Computer {
    Computer { user: "ann".into(), systemd: true, data: "/var/lib/agent".into(), ..Computer::default() }
}

fn told(plan: &Plan, expect: Expect) {
    let mut text = String::new();
    let run = |command: &plan::Command| format!("run {}\n", command.line());
    text.extend(plan.first.iter().map(run));
    text.extend(plan.write.iter().map(|file| format!("write {} {:o}\n", file.path.display(), file.mode)));
    text.extend(plan.remove.iter().map(|path| format!("remove {}\n", path.display())));
    text.extend(plan.run.iter().map(run));
    text.extend(plan.say.iter().map(|line| format!("say {line}\n")));
    expect.assert_eq(&text);
}

#[test]
fn root_installs_a_service_of_the_computer_and_a_group_that_uses_it() {
    let plan = plan::install(&Layout::system(Path::new("/usr/local")), &pages(), &seen());
    told(
        &plan,
        expect![[r#"
        write /usr/local/bin/agent 755
        write /etc/systemd/system/agent.service 644
        write /usr/local/share/bash-completion/completions/agent 644
        write /usr/local/share/zsh/site-functions/_agent 644
        write /usr/local/share/fish/vendor_completions.d/agent.fish 644
        write /usr/local/share/man/man1/agent.1 644
        run groupadd --system agent
        run systemctl daemon-reload
        run systemctl enable agent.service
        say next: sudo agent init --name NAME    or sudo agent join TOKEN
        say then: sudo systemctl start agent
        say who else may use it: sudo usermod -aG agent USER    and a new login
        say names in every program: sudo agent dns setup
    "#]],
    );
    // A member's service starts at once, unless somebody's own agent is in its way.
    let there = Computer { group: true, member: true, firewalls: [true, true], named: true, ..seen() };
    let plan = plan::install(&Layout::system(Path::new("/opt/agent")), &Pages::default(), &there);
    told(
        &plan,
        expect![[r#"
        write /opt/agent/bin/agent 755
        write /etc/systemd/system/agent.service 644
        write /etc/ufw/applications.d/agent 644
        write /etc/firewalld/services/agent.xml 644
        write /opt/agent/share/bash-completion/completions/agent 644
        write /opt/agent/share/zsh/site-functions/_agent 644
        write /opt/agent/share/fish/vendor_completions.d/agent.fish 644
        run systemctl daemon-reload
        run systemctl enable agent.service
        run systemctl restart agent.service
        say who else may use it: sudo usermod -aG agent USER    and a new login
    "#]],
    );
    let by_hand = plan::install(
        &Layout::system(Path::new("/usr/local")),
        &Pages::default(),
        &Computer { by_hand: Some(77), ..there },
    );
    assert!(by_hand.run.iter().all(|command| !command.line().contains("restart")), "{by_hand:?}");
    assert!(by_hand.say[0].contains("kill 77    then sudo systemctl start agent"), "{:?}", by_hand.say);
}

#[test]
fn a_user_s_service_outlives_the_user_s_logins() {
    let user = Computer {
        linger: Linger::Off,
        runtime: Some("/run/user/1000".into()),
        data: "/home/ann/.local/share/agent".into(),
        member: true,
        ..seen()
    };
    let layout = Layout::user(Path::new("/home/ann"), Path::new("/home/ann/.local"));
    told(
        &plan::install(&layout, &pages(), &user),
        expect![[r#"
        write /home/ann/.local/bin/agent 755
        write /home/ann/.config/systemd/user/agent.service 644
        write /home/ann/.local/share/bash-completion/completions/agent 644
        write /home/ann/.local/share/zsh/site-functions/_agent 644
        write /home/ann/.config/fish/completions/agent.fish 644
        write /home/ann/.local/share/man/man1/agent.1 644
        run loginctl enable-linger ann
        run XDG_RUNTIME_DIR=/run/user/1000 systemctl --user daemon-reload
        run XDG_RUNTIME_DIR=/run/user/1000 systemctl --user enable agent.service
        run XDG_RUNTIME_DIR=/run/user/1000 systemctl --user restart agent.service
    "#]],
    );
    let without = plan::install(&layout, &pages(), &Computer { linger: Linger::Unknown, ..user });
    assert!(without.say[0].contains("touch /var/lib/systemd/linger/ann"), "{:?}", without.say);
}

#[test]
fn without_systemd_a_line_is_told_and_no_unit_written() {
    let bare = Computer { systemd: false, member: true, ..seen() };
    let plan = plan::install(&Layout::system(Path::new("/usr/local")), &Pages::default(), &bare);
    assert!(plan.run.is_empty() && plan.write.iter().all(|file| !file.path.ends_with("agent.service")));
    let line = "nohup '/usr/local/bin/agent' run </dev/null >>'/var/lib/agent.log' 2>&1 &";
    assert!(plan.say[0].ends_with(line), "{:?}", plan.say);
    let odd = Computer { chosen: true, data: "/srv/it's".into(), ..bare };
    let line = plan::line(&Layout::system(Path::new("/usr/local")), &odd);
    assert!(line.starts_with(r"AGENT_DATA_DIR='/srv/it'\''s' nohup"), "{line}");
}

#[test]
fn the_unit_restarts_the_agent_and_never_ends_machines() {
    let text = unit::text(Scope::System, Path::new("/usr/bin/agent"), Path::new("/var/lib/agent"), false);
    let has = |line: &str| text.lines().any(|found| found == line);
    for line in
        ["KillMode=process", "OOMPolicy=continue", "Restart=always", "StartLimitIntervalSec=0", "Type=notify"]
    {
        assert!(has(line), "{line}");
    }
    // QEMU translates into memory that it runs, shims meet in /run and /tmp, and both are inherited by the next agent.
    for word in ["MemoryDenyWriteExecute", "PrivateTmp", "RuntimeDirectory", "PrivateDevices"] {
        assert!(!text.contains(word), "{word}");
    }
    assert!(has("ExecStart=/usr/bin/agent run") && has("WantedBy=multi-user.target"));
    let user = unit::text(Scope::User, Path::new("/home/a b/50%/agent"), Path::new("/data/$x \"y\""), true);
    assert!(user.contains("\nExecStart=\"/home/a b/50%%/agent\" run\n"), "{user}");
    assert!(user.contains("\nEnvironment=\"AGENT_DATA_DIR=/data/$x \\\"y\\\"\"\n"), "{user}");
    // A user's manager may not do these, and refuses the whole service over some.
    for word in ["CapabilityBoundingSet", "ProtectSystem", "DevicePolicy"] {
        assert!(!user.contains(word) && text.contains(word), "{word}");
    }
}

/// Every file below a directory with its content and permissions.
fn tree(root: &Path) -> BTreeMap<PathBuf, (String, u32)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.insert(path, (text, entry.metadata().unwrap().permissions().mode() & 0o777));
        }
    }
    found
}

/// A root directory in which somebody has been before us, and the program that is installed into it.
fn place() -> (tempfile::TempDir, Root, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (root, program) = (dir.path().join("root"), dir.path().join("agent"));
    fs::create_dir_all(root.join("usr/local/bin")).unwrap();
    fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
    fs::write(root.join("etc/systemd/system/other.service"), "theirs").unwrap();
    fs::write(&program, "the program").unwrap();
    (dir, Root(Some(root)), program)
}

#[test]
fn what_was_installed_is_removed_to_the_last_file_and_nothing_else() {
    let (dir, root, program) = place();
    let layout = Layout::system(Path::new("/usr/local"));
    let at = layout.record.as_deref();
    let before = tree(dir.path());
    let plan = plan::install(&layout, &pages(), &seen());
    carry::write(&plan, &root, (&program, Scope::System), (at, None)).unwrap();
    let written = tree(dir.path());
    for file in &plan.write {
        let (text, mode) = &written[&root.at(&file.path)];
        let wanted = file.text.as_deref().unwrap_or("the program");
        assert_eq!((text.as_str(), *mode), (wanted, file.mode), "{}", file.path.display());
    }
    // A second time, with a newer program: the record goes on.
    fs::write(&program, "a newer program").unwrap();
    let record = carry::record(&root, at);
    let record = carry::write(&plan, &root, (&program, Scope::System), (at, record)).unwrap();
    assert_eq!(carry::record(&root, at).as_ref(), Some(&record));
    let away = plan::uninstall(&layout, &record, &seen());
    assert_eq!(away.first[0].line(), "systemctl disable --now agent.service");
    carry::remove(&root, at, &record).unwrap();
    let mut after = tree(dir.path());
    after.insert(program.clone(), before[&program].clone());
    assert_eq!(after, before);
}

#[test]
fn what_somebody_else_wrote_or_changed_is_neither_written_over_nor_removed() {
    let (_dir, root, program) = place();
    let layout = Layout::system(Path::new("/usr/local"));
    let (at, plan) = (layout.record.as_deref(), plan::install(&layout, &pages(), &seen()));
    fs::write(root.at(&layout.unit), "somebody's own").unwrap();
    assert_eq!(carry::foreign(&plan, &root, None), std::slice::from_ref(&layout.unit));
    fs::remove_file(root.at(&layout.unit)).unwrap();
    let record = carry::write(&plan, &root, (&program, Scope::System), (at, None)).unwrap();
    assert!(carry::foreign(&plan, &root, Some(&record)).is_empty());
    fs::write(root.at(&layout.unit), "changed").unwrap();
    assert_eq!(carry::foreign(&plan, &root, Some(&record)), std::slice::from_ref(&layout.unit));
    let removed = carry::remove(&root, at, &record).unwrap();
    assert_eq!(removed.changed, std::slice::from_ref(&layout.unit));
    assert_eq!(fs::read_to_string(root.at(&layout.unit)).unwrap(), "changed");
}

#[test]
fn a_command_that_is_not_needed_may_fail_with_a_word_and_a_needed_one_may_not() {
    let command = |otherwise: Option<&str>| plan::Command {
        words: vec!["false".into()],
        variable: None,
        otherwise: otherwise.map(str::to_owned),
    };
    assert!(carry::run(&command(Some("so what"))).unwrap().is_some_and(|told| told.ends_with("so what")));
    assert!(carry::run(&command(None)).is_err());
}

//! Users and groups of this computer, as its own files tell them. A directory service is not asked.

use std::fs;

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: u32,
    /// Users that are named in it.
    pub members: Vec<String>,
}

/// Names a user for people.
pub fn name(uid: u32) -> String {
    named(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid)
        .unwrap_or_else(|| format!("user {uid}"))
}

/// Finds a group.
pub fn group(name: &str) -> Option<Group> {
    grouped(&fs::read_to_string("/etc/group").unwrap_or_default(), name)
}

/// Names a group for people.
pub fn group_name(gid: u32) -> String {
    let all = fs::read_to_string("/etc/group").unwrap_or_default();
    named(&all, gid).unwrap_or_else(|| format!("group {gid}"))
}

/// Both files have the name first and the number third.
fn named(all: &str, number: u32) -> Option<String> {
    all.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found.parse() == Ok(number)).then(|| name.to_owned())
    })
}

fn grouped(all: &str, name: &str) -> Option<Group> {
    all.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, gid, rest @ ..] = &fields[..] else { return None };
        let members = rest.first().into_iter().flat_map(|members| members.split(','));
        let members = members.map(str::trim).filter(|member| !member.is_empty()).map(str::to_owned).collect();
        (*found == name).then(|| gid.parse().ok().map(|gid| Group { gid, members })).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_from_lines_of_fields() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/bash\nbroken\n";
        assert_eq!((named(passwd, 1000).as_deref(), named(passwd, 7)), (Some("ann"), None));
        let groups = "root:x:0:\nagent:x:996:ann, bob\nodd:x:many:\n";
        let agent = Group { gid: 996, members: vec!["ann".into(), "bob".into()] };
        assert_eq!(grouped(groups, "agent"), Some(agent));
        assert_eq!(grouped(groups, "root").unwrap().members, Vec::<String>::new());
        assert_eq!((grouped(groups, "odd"), grouped(groups, "age")), (None, None));
    }
}

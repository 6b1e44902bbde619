//! Who may call through the Unix socket.

use std::fs;

use gnomon_daemon::config::ConfigError;

use crate::config::Listen;

/// Besides root and this process' own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    pub uids: Vec<u32>,
    /// The group that the socket belongs to.
    pub gid: Option<u32>,
}

impl Users {
    /// # Errors
    /// When somebody is named who is not there.
    pub fn of(listen: &Listen) -> Result<Users, ConfigError> {
        let uids = listen.unix_users.iter().map(|name| number_of("listen.unix_users", "/etc/passwd", name));
        let gid = listen.unix_group.as_deref().map(|name| number_of("listen.unix_group", "/etc/group", name));
        Ok(Users { uids: uids.collect::<Result<_, _>>()?, gid: gid.transpose()? })
    }

    pub(super) fn may(&self, uid: u32, gid: u32) -> bool {
        uid == 0
            || uid == rustix::process::geteuid().as_raw()
            || self.uids.contains(&uid)
            || self.gid == Some(gid)
    }
}

/// The third field of the line that begins with the name, in both files (passwd(5), group(5)).
fn number_of(key: &'static str, file: &str, name: &str) -> Result<u32, ConfigError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(file).map_err(|e| ConfigError::invalid(key, format!("{file}: {e}")))?;
    let mut lines = text.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|number| number.parse().ok())).flatten()
    });
    found.ok_or_else(|| {
        ConfigError::invalid(key, format!("{name:?} is not in {file}: give the number instead"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_taken_and_strangers_named() {
        let listen = |users: &[&str], group: Option<&str>| Listen {
            unix_users: users.iter().map(|user| (*user).to_owned()).collect(),
            unix_group: group.map(str::to_owned),
            ..Listen::default()
        };
        let users = Users::of(&listen(&["root", "4711"], Some("root"))).unwrap();
        assert_eq!((users.uids.as_slice(), users.gid), ([0, 4711].as_slice(), Some(0)));
        assert!(users.may(4711, 9) && !users.may(4712, 9));
        let text = Users::of(&listen(&["nobody-of-that-name"], None)).unwrap_err().to_string();
        assert!(text.contains("listen.unix_users") && text.contains("/etc/passwd"), "{text}");
    }
}

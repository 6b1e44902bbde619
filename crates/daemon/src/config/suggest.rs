//! Which key was probably meant.

use gnomon_flow::spelling::distance;

use super::schema::Key;

/// The best candidate for an unknown dotted `key`: a near name among `siblings` (full paths), else the same or a near
/// last name anywhere in the struct. `None` if nothing is near enough to be worth saying.
pub(super) fn nearest(key: &str, siblings: &[String], all: &[Key<'_>]) -> Option<String> {
    let prefix = key.rfind('.').map_or("", |end| &key[..=end]);
    let name = &key[prefix.len()..];
    let by_name = |path: &str| distance(name, last(path));
    let limit = (name.chars().count() / 3).max(1);
    let near_sibling = siblings
        .iter()
        .map(|sibling| (by_name(sibling), format!("{prefix}{sibling}")))
        .filter(|(distance, _)| *distance <= limit)
        .min();
    if let Some((_, sibling)) = near_sibling {
        return Some(sibling);
    }
    let elsewhere = all.iter().map(|known| (by_name(&known.path), known.path.clone()));
    elsewhere.filter(|(distance, _)| *distance <= limit).min().map(|(_, path)| path)
}

fn last(path: &str) -> &str {
    path.rfind('.').map_or(path, |end| &path[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_the_nearest_sibling_and_says_nothing_when_nothing_is_near() {
        let siblings = ["bytes_max".to_owned(), "path".to_owned()];
        assert_eq!(nearest("spool.byte_max", &siblings, &[]).as_deref(), Some("spool.bytes_max"));
        assert_eq!(nearest("spool.zzzzzz", &siblings, &[]), None);
    }
}

//! Which key was probably meant.

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

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other. Keys are short; a longer word than
/// any key is cut, so that a hostile file costs nothing.
fn distance(a: &str, b: &str) -> usize {
    const CHARS_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(CHARS_MAX).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(distance("bytes_max", "bytes_max"), 0);
        assert_eq!(distance("byte_max", "bytes_max"), 1);
        assert_eq!(distance("bytse", "bytes"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn prefers_the_nearest_sibling_and_says_nothing_when_nothing_is_near() {
        let siblings = ["bytes_max".to_owned(), "path".to_owned()];
        assert_eq!(nearest("spool.byte_max", &siblings, &[]).as_deref(), Some("spool.bytes_max"));
        assert_eq!(nearest("spool.zzzzzz", &siblings, &[]), None);
    }
}

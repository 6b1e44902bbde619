//! How far one word is from another, for «did you mean».

/// Characters that count; what is longer than any name of ours is cut, so that a hostile word costs nothing.
const CHARS_MAX: usize = 64;

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other.
pub fn distance(a: &str, b: &str) -> usize {
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
}

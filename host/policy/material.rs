//! What keys are made of, part by part.

/// Takes the material of a key, part by part. The cache's hasher is one; a test's list is another.
pub trait Material {
    /// One part. `None`, the empty part and every split of the same bytes must stay distinct.
    fn part(&mut self, part: Option<&[u8]>);
}

/// The first byte of a part that is missing; no length is written like this.
const MISSING: u8 = 255;
/// Eight bytes of length follow.
const LONG: u8 = 254;

/// Spells a part out behind its length, so that no two lists of parts are spelled alike.
pub fn spell(part: Option<&[u8]>, mut write: impl FnMut(&[u8])) {
    let Some(bytes) = part else { return write(&[MISSING]) };
    match u8::try_from(bytes.len()) {
        Ok(length) if length < LONG => write(&[length]),
        _ => {
            write(&[LONG]);
            write(&(bytes.len() as u64).to_le_bytes());
        }
    }
    write(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_spelled_behind_their_length() {
        let long = |length: usize| [&[LONG], &(length as u64).to_le_bytes()[..], &vec![b'x'; length]].concat();
        for (part, wanted) in [
            (None, vec![MISSING]),
            (Some(""), vec![0]),
            (Some("ab"), b"\x02ab".to_vec()),
            (Some(&*"x".repeat(253)), [&[253], &[b'x'; 253][..]].concat()),
            (Some(&*"x".repeat(254)), long(254)),
            (Some(&*"x".repeat(300)), long(300)),
        ] {
            let mut spelled = Vec::new();
            spell(part.map(str::as_bytes), |bytes| spelled.extend_from_slice(bytes));
            assert_eq!(spelled, wanted, "{part:?}");
        }
    }
}

//! The rows of a tensor: its data cut along the first dimension. Numbers stay as they were written.

use crate::origin::protocol::{
    json,
    tensor::{DIMS_MAX, Datatype, leaf_end, leaves, prefixed_end},
};

/// The dimensions of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: usize,
    /// The dimensions of a row.
    pub(super) row: Vec<usize>,
    /// Elements of a row.
    width: usize,
}

/// Data as JSON, by rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JsonRows<'t> {
    pub(super) rows: Vec<&'t [u8]>,
    /// Whether each row is a list of its own, instead of a stretch of a flat one.
    pub(super) nested: bool,
}

impl Shape {
    /// Returns the shape; `None` for a scalar, or for more elements than can be counted.
    pub(super) fn of(dims: &[usize]) -> Option<Self> {
        let (rows, row) = dims.split_first().filter(|_| dims.len() <= DIMS_MAX)?;
        let width = row.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
        width.checked_mul(*rows)?;
        Some(Self { rows: *rows, row: row.to_vec(), width })
    }

    /// Cuts a JSON list, flat or nested; `None` if it isn't of this shape. The text is known to be valid.
    pub(super) fn cut_json<'t>(&self, data: &'t [u8]) -> Option<JsonRows<'t>> {
        let mut cutter = Cutter { shape: self, data, rows: Vec::new(), nested: false, leaves: 0, start: 0 };
        let mut counts = [0_usize; DIMS_MAX];
        let (mut at, mut depth) = (0, 0);
        while let Some(byte) = data.get(at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => at += 1,
                b'[' => {
                    cutter.opens(at, depth)?;
                    *counts.get_mut(depth)? = 0;
                    (at, depth) = (at + 1, depth + 1);
                }
                b']' => {
                    (at, depth) = (at + 1, depth.checked_sub(1)?);
                    cutter.closes(at, depth, counts[depth])?;
                    if let Some(above) = depth.checked_sub(1) {
                        counts[above] += 1;
                    }
                }
                b'{' => return None,
                _ => {
                    let end = leaf_end(data, at);
                    cutter.leaf(at, end, depth)?;
                    *counts.get_mut(depth.checked_sub(1)?)? += 1;
                    at = end;
                }
            }
        }
        cutter.finish()
    }

    /// Cuts the binary form of elements of `datatype` off `data`, which has to be all of it; `None` if it isn't.
    pub(super) fn cut_binary<'t>(&self, datatype: &str, data: &'t [u8]) -> Option<Vec<&'t [u8]>> {
        let mut rest = data;
        let mut cut = |bytes: usize| {
            let (row, after) = rest.split_at_checked(bytes)?;
            rest = after;
            Some(row)
        };
        let rows = match Datatype::of(datatype)?.size() {
            Some(bytes) => {
                let bytes = self.width.checked_mul(bytes)?;
                // What isn't there is noticed before so many rows are made.
                (bytes.checked_mul(self.rows)? == data.len()).then_some(())?;
                (0..self.rows).map(|_| cut(bytes)).collect::<Option<Vec<_>>>()?
            }
            None => {
                let mut at = 0;
                let mut rows = Vec::new();
                for _ in 0..self.rows {
                    let start = at;
                    for _ in 0..self.width {
                        at = prefixed_end(data, at)?;
                    }
                    rows.push(cut(at - start)?);
                }
                rows
            }
        };
        rest.is_empty().then_some(rows)
    }
}

/// Finds the rows while the walk over a list goes on.
struct Cutter<'s, 't> {
    shape: &'s Shape,
    data: &'t [u8],
    rows: Vec<&'t [u8]>,
    nested: bool,
    leaves: usize,
    /// Where the row begins that is being read.
    start: usize,
}

impl<'t> Cutter<'_, 't> {
    /// A list opens, `depth` others around it.
    fn opens(&mut self, at: usize, depth: usize) -> Option<()> {
        match depth {
            0 => (at == 0).then_some(()),
            _ if self.leaves > 0 && !self.nested => None,
            _ if depth > self.shape.row.len() => None,
            _ => {
                self.nested = true;
                if depth == 1 {
                    self.start = at;
                }
                Some(())
            }
        }
    }

    /// A list of `count` elements has closed at `end`, `depth` others around it.
    fn closes(&mut self, end: usize, depth: usize, count: usize) -> Option<()> {
        let Some(dim) = depth.checked_sub(1).and_then(|place| self.shape.row.get(place)) else {
            return (depth == 0 && end == self.data.len()).then_some(());
        };
        if count != *dim {
            return None;
        }
        if depth == 1 { self.row(end) } else { Some(()) }
    }

    /// A number, a word or a string stands there, in `depth` lists.
    fn leaf(&mut self, start: usize, end: usize, depth: usize) -> Option<()> {
        if self.nested {
            return (depth == self.shape.row.len() + 1).then_some(());
        }
        if depth != 1 || self.shape.width == 0 {
            return None;
        }
        if self.leaves.is_multiple_of(self.shape.width) {
            self.start = start;
        }
        self.leaves += 1;
        if self.leaves.is_multiple_of(self.shape.width) { self.row(end) } else { Some(()) }
    }

    fn row(&mut self, end: usize) -> Option<()> {
        if self.rows.len() == self.shape.rows {
            return None;
        }
        self.rows.push(self.data.get(self.start..end)?);
        Some(())
    }

    fn finish(mut self) -> Option<JsonRows<'t>> {
        if !self.nested && self.shape.width == 0 && self.data.first() == Some(&b'[') {
            self.rows = vec![&[][..]; self.shape.rows];
        }
        let is_whole = self.nested || self.leaves == self.shape.rows.checked_mul(self.shape.width)?;
        let is_right = is_whole && self.rows.len() == self.shape.rows;
        is_right.then_some(JsonRows { rows: self.rows, nested: self.nested })
    }
}

/// Returns a row as a flat list's stretch without white space, strings in their shortest form; `None` if it is no
/// UTF-8.
pub(super) fn flat(row: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(row.len());
    for leaf in leaves(row) {
        let leaf = str::from_utf8(leaf).ok()?;
        if !out.is_empty() {
            out.push(b',');
        }
        match leaf.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(inner) if inner.contains('\\') => {
                out.push(b'"');
                out.extend_from_slice(json::shortest(inner).as_bytes());
                out.push(b'"');
            }
            _ => out.extend_from_slice(leaf.as_bytes()),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::of(dims).unwrap()
    }

    #[test]
    fn lists_are_cut_by_rows_and_what_does_not_fit_is_not_cut() {
        for (dims, data, wanted) in [
            (&[2][..], "[1, 2]", Some((vec!["1", "2"], false))),
            (&[0], "[]", Some((vec![], false))),
            (&[2, 0], "[]", Some((vec!["", ""], false))),
            (&[2, 0], "[[],[ ]]", Some((vec!["[]", "[ ]"], true))),
            (&[2, 2], "[1.0,2e1, 3,4]", Some((vec!["1.0,2e1", "3,4"], false))),
            (&[2, 2], "[ [1,2] ,[3, 4]]", Some((vec!["[1,2]", "[3, 4]"], true))),
            (&[1, 2, 2], "[[[1,2],[3,4]]]", Some((vec!["[[1,2],[3,4]]"], true))),
            (&[1, 2, 2], "[1,2,3,4]", Some((vec!["1,2,3,4"], false))),
            (&[2, 1], r#"["a, ]","\"[,"]"#, Some((vec![r#""a, ]""#, r#""\"[,""#], false))),
            (&[2], "[true,null]", Some((vec!["true", "null"], false))),
            (&[2], "[1]", None),
            (&[2], "[1,2,3]", None),
            (&[2], "[[1],[2]]", None),
            (&[2, 2], "[1,2,3]", None),
            (&[2, 2], "[[1,2],[3]]", None),
            (&[2, 2], "[[1,2]]", None),
            (&[2, 2], "[[1,2],[3,4],[5,6]]", None),
            (&[2, 2], "[[1,2],3,4]", None),
            (&[2, 2], "[1,2,[3,4]]", None),
            (&[2, 2], "[[[1],[2]],[3,4]]", None),
            (&[1, 2, 2], "[[1,2,3,4]]", None),
            (&[1, 2, 2], "[[[1,2,3],[4]]]", None),
            (&[1, 1], "[{}]", None),
            (&[1], "1", None),
            (&[1], "\"[1]\"", None),
        ] {
            let cut = shape(dims).cut_json(data.as_bytes());
            let wanted = wanted.map(|(rows, nested): (Vec<&str>, bool)| JsonRows {
                rows: rows.into_iter().map(str::as_bytes).collect(),
                nested,
            });
            assert_eq!(cut, wanted, "{dims:?} {data}");
        }
    }

    #[test]
    fn a_shape_has_a_first_dimension_and_can_be_counted() {
        assert_eq!(Shape::of(&[]), None);
        assert_eq!(Shape::of(&[1, usize::MAX, 2]), None);
        assert_eq!(Shape::of(&[2, usize::MAX]), None);
        assert_eq!(Shape::of(&[1; DIMS_MAX + 1]), None);
        let deep = format!("{}1{}", "[".repeat(DIMS_MAX), "]".repeat(DIMS_MAX));
        assert!(shape(&[1; DIMS_MAX]).cut_json(deep.as_bytes()).is_some());
        assert!(shape(&[1; DIMS_MAX]).cut_json(format!("[{deep}]").as_bytes()).is_none());
    }

    #[test]
    fn a_row_is_one_text_however_it_is_written() {
        for (written, wanted) in
            [("[[1.0, 2], [ 3,4e0 ]]", "1.0,2,3,4e0"), (r#""a b" , "\u0041\/""#, r#""a b","A/""#), ("", "")]
        {
            assert_eq!(flat(written.as_bytes()).unwrap(), wanted.as_bytes(), "{written}");
        }
        assert_eq!(flat(b"\xff"), None);
    }

    #[test]
    fn binary_elements_are_cut_by_their_size() {
        for (dims, datatype, data, wanted) in [
            (&[2, 2][..], "INT16", &b"aabbccdd"[..], Some(vec![&b"aabb"[..], &b"ccdd"[..]])),
            (&[2], "FP64", &b"1234567887654321"[..], Some(vec![&b"12345678"[..], &b"87654321"[..]])),
            (&[2, 0], "UINT8", &b""[..], Some(vec![&b""[..], &b""[..]])),
            (&[2], "BYTES", &b"\x01\0\0\0a\x00\0\0\0"[..], Some(vec![&b"\x01\0\0\0a"[..], &b"\0\0\0\0"[..]])),
            (&[2, 2], "INT16", &b"aabbccd"[..], None),
            (&[2, 2], "INT16", &b"aabbccddd"[..], None),
            (&[1], "BYTES", &b"\x02\0\0\0a"[..], None),
            (&[1], "BYTES", &b"\x00\0\0\0a"[..], None),
            (&[1], "BYTES", &b"\xff\xff\xff\xff"[..], None),
            (&[1], "COMPLEX64", &b"12345678"[..], None),
        ] {
            assert_eq!(shape(dims).cut_binary(datatype, data), wanted, "{dims:?} {datatype}");
        }
    }
}

//! The former generations of a policy, to roll back to. Pure.

use std::collections::VecDeque;

/// Former generations, the latest first.
#[derive(Debug)]
pub(super) struct Kept<T>(VecDeque<Former<T>>);

#[derive(Debug)]
struct Former<T> {
    generation: T,
    /// Whether it was rolled back from, or past: then it is returned to by its name only.
    left: bool,
}

impl<T> Kept<T> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Keeps what was active until now; `left` if it is rolled back from. Past `max`, those that were left are dropped
    /// first, the oldest before others.
    pub(super) fn push(&mut self, generation: T, left: bool, max: usize) {
        self.0.push_front(Former { generation, left });
        while self.0.len() > max {
            let goes = self.0.iter().rposition(|former| former.left).unwrap_or(self.0.len() - 1);
            self.0.remove(goes);
        }
    }

    /// Keeps again a generation whose trial has ended.
    pub(super) fn push_given_up(&mut self, generation: T) {
        self.0.push_back(Former { generation, left: true });
    }

    /// Takes out the latest that wasn't rolled back from.
    pub(super) fn take_latest(&mut self) -> Option<T> {
        let at = self.0.iter().position(|former| !former.left)?;
        Some(self.take_at(at)?.generation)
    }

    /// Takes out the latest that is wanted, and whether it was rolled back from before. Those that are later count as
    /// rolled back from as well.
    pub(super) fn take_wanted(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<(T, bool)> {
        let at = self.0.iter().position(|former| is_wanted(&former.generation))?;
        self.take_at(at).map(|former| (former.generation, former.left))
    }

    fn take_at(&mut self, at: usize) -> Option<Former<T>> {
        if !self.0.get(at)?.left {
            self.0.iter_mut().take(at).for_each(|later| later.left = true);
        }
        self.0.remove(at)
    }

    /// Takes one out that is to be tried or activated anew.
    pub(super) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.0.iter().position(|former| is_it(&former.generation))?;
        self.0.remove(at).map(|former| former.generation)
    }

    /// Lets those go that can't be gone back to any more.
    pub(super) fn retain(&mut self, is_usable: impl Fn(&T) -> bool) {
        self.0.retain(|former| is_usable(&former.generation));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|former| &former.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(of: &[&'static str]) -> Kept<&'static str> {
        let mut kept = Kept::new();
        of.iter().for_each(|generation| kept.push(*generation, false, 9));
        kept
    }

    fn names(kept: &Kept<&'static str>) -> Vec<&'static str> {
        kept.iter().copied().collect()
    }

    #[test]
    fn each_step_goes_further_back() {
        let mut kept = kept(&["a", "b", "c"]);
        let mut active = "d";
        for wanted in [Some("c"), Some("b"), Some("a"), None] {
            let former = kept.take_latest();
            assert_eq!(former, wanted);
            if let Some(former) = former {
                kept.push(std::mem::replace(&mut active, former), true, 9);
            }
        }
        assert_eq!(names(&kept), ["b", "c", "d"], "all of which can be had by name");
        assert_eq!(kept.take_wanted(|it| *it == "d"), Some(("d", true)));
        // From there `a` is a step back again.
        kept.push("a", false, 9);
        assert_eq!(kept.take_latest(), Some("a"));
    }

    #[test]
    fn who_goes_back_further_at_once_has_passed_the_others() {
        let mut kept = kept(&["a", "b", "c"]);
        assert_eq!(kept.take_wanted(|it| *it == "b"), Some(("b", false)));
        kept.push("d", true, 9);
        assert_eq!((kept.take_latest(), kept.take_latest()), (Some("a"), None));
        assert_eq!(kept.take_wanted(|it| *it == "none"), None);
    }

    #[test]
    fn what_was_left_makes_room_for_what_was_good() {
        let mut kept = kept(&["a", "b"]);
        kept.push("bad", true, 3);
        kept.push("c", false, 3);
        assert_eq!(names(&kept), ["c", "b", "a"]);
        kept.push("d", false, 3);
        assert_eq!(names(&kept), ["d", "c", "b"]);
        kept.push_given_up("tried");
        assert_eq!(kept.take_latest(), Some("d"));
        assert_eq!(kept.take(|it| *it == "tried"), Some("tried"));
        kept.retain(|it| *it != "b");
        assert_eq!(names(&kept), ["c"]);
        kept.push("e", false, 0);
        assert_eq!(names(&kept), [""; 0]);
    }
}

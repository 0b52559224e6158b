//! Format numbers: what outlives the version that wrote it (the host's record, the leases, the layout of the data path's
//! maps) says in which form it is.
//!
//! An older number is converted, a newer one and none at all are refused by name: nobody guesses what a field meant.

use crate::error::{Error, Result};

/// 1 in a build that plays the next version (`build.rs`), which has every number raised by one; else 0.
pub const RAISED: u32 = cfg!(raised) as u32;

/// The numbers of one kind of record that this version reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The oldest one that it converts.
    pub oldest: u32,
    /// The one that it writes.
    pub newest: u32,
}

impl Known {
    /// Refuses a number that this version does not read; `what` bears it.
    pub fn check(self, found: Option<u32>, what: &str) -> Result<()> {
        let known = self.newest;
        match found.unwrap_or(0) {
            0 => Err(Error::unsupported(
                format!("{what} bears no format number: it was written by a portslice that knew none"),
                "end all containers and run the `setup --undo` of that one, then `portslice setup`",
            )),
            newer if newer > known => Err(Error::unsupported(
                format!("{what} was written by a newer portslice (format {newer}, this one knows {known})"),
                "use that one, or end all containers and run its `setup --undo` first",
            )),
            older if older < self.oldest => Err(Error::unsupported(
                format!(
                    "{what} was written by a portslice too old to convert it (format {older}, this one knows {} to {known})",
                    self.oldest
                ),
                "end all containers and run the `setup --undo` of that one, then `portslice setup`",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_numbers_pass() {
        let known = Known { oldest: 2, newest: 3 };
        let refused = |found| known.check(found, "the record").unwrap_err().to_string();
        assert!(known.check(Some(2), "").is_ok() && known.check(Some(3), "").is_ok());
        assert!(refused(Some(4)).contains("the record was written by a newer portslice (format 4, this one knows 3)"));
        assert!(refused(Some(1)).contains("format 1, this one knows 2 to 3"));
        assert!(refused(None).contains("the record bears no format number"));
        assert_eq!(refused(None), refused(Some(0)));
    }
}

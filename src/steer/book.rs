//! The book: a copy of every lease record in the kernel, by slot.
//!
//! Whoever lost the state directory reads from the book what was granted. Slot 0 holds the record of the host.
//!
//! A record is cut into chunks. Chunk 0 says which generation the record is and how many chunks it has. The other
//! chunks of an even generation stand beside those of an odd one, under other keys: a writer that is killed leaves the
//! old record or the new one, never a mixture.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use super::shared::open;
use super::sys::{self, MapInfo};
use crate::error::{Error, Result};

/// Bytes of a map value: `struct chunk`.
const VALUE: usize = 2048;
/// Entries of the map.
const ENTRIES: u32 = 65536;
/// Bytes before the record's part: generation, chunks, length.
const HEAD: usize = 8;
/// Bytes of a record in one chunk (`BOOK_BYTES`).
const PART: usize = VALUE - HEAD;
/// Most chunks of a record.
const CHUNKS: usize = 31;
/// Distance between the keys of two generations.
const BANK: u32 = 32;
/// How often a reader that meets a writer tries again. Beside one that never pauses, nine of ten attempts are in vain;
/// a record that stays torn is told after some 10 ms.
const ATTEMPTS: u32 = 1024;

/// The map `book`.
pub struct Book(OwnedFd);

type Value = [u8; VALUE];

/// The fixed part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    generation: u32,
    chunks: u16,
    length: u16,
}

impl Book {
    /// The book pinned under `directory`. A map of another shape is none: the kernel would take parts of records into it.
    pub fn open(directory: &Path) -> Result<Self> {
        let map = open(directory, "book")?;
        let doing = || format!("read the book {}", directory.join("book").display());
        let info = sys::map_info(map.as_fd()).map_err(|e| Error::Bpf { doing: doing(), why: e.to_string() })?;
        if !is_book(&info) {
            return Err(Error::Bpf { doing: doing(), why: "that is another map: `portslice setup` says more".into() });
        }
        Ok(Self(map))
    }

    /// The book behind a descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The map's id, by which programs name the book they are bound to.
    pub fn id(&self) -> Result<u32> {
        sys::map_info(self.0.as_fd())
            .map(|info| info.id)
            .map_err(|e| Error::Bpf { doing: "look up the id of the book".into(), why: e.to_string() })
    }

    /// The record of `slot`; `None` when it has none. A record that is not whole is an error.
    pub fn read(&self, slot: u16) -> Result<Option<Vec<u8>>> {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            match self.gather(slot)? {
                Gathered::None => return Ok(None),
                Gathered::Record(record) => return Ok(Some(record)),
                Gathered::Torn(reason) => why = reason,
            }
        }
        Err(Error::Bpf { doing: format!("read the record of slot {slot} from the book"), why })
    }

    /// Replaces the record of `slot`, at one moment: readers see the old record or the new one. One writer at a time.
    pub fn write(&self, slot: u16, record: &[u8]) -> Result<()> {
        let fail = |why: String| Error::Bpf { doing: format!("write the record of slot {slot} into the book"), why };
        let parts = split(record).ok_or_else(|| {
            fail(format!("it has {} bytes, and there is room for {} a slot", record.len(), CHUNKS * PART))
        })?;
        let io = |e: io::Error| fail(e.to_string());
        let old = self.chunk(first_key(slot)).map_err(io)?.map(|value| Head::of(&value).generation);
        // without an old record, any number that a reader of an erased one does not expect
        let generation = old.map_or_else(nanoseconds, |g| g.wrapping_add(1));
        let chunks = parts.len() as u16;
        for (i, part) in parts.iter().enumerate().rev() {
            let key = key(slot, generation, i as u32).to_ne_bytes();
            if let Err(e) = sys::update(self.0.as_fd(), &key, &encode(generation, chunks, part)) {
                let _ = self.clear(slot, generation, 1);
                return Err(io(e));
            }
        }
        self.clear(slot, generation.wrapping_add(1), 1).map_err(io)?;
        self.clear(slot, generation, chunks.into()).map_err(io)
    }

    /// Removes the record of `slot`; success when there is none.
    pub fn erase(&self, slot: u16) -> Result<()> {
        let fail = |e: io::Error| Error::Bpf {
            doing: format!("erase the record of slot {slot} from the book"),
            why: e.to_string(),
        };
        self.remove(first_key(slot)).map_err(fail)?;
        self.clear(slot, 0, 1).map_err(fail)?;
        self.clear(slot, 1, 1).map_err(fail)
    }

    /// The slots that have a record, ascending, without slot 0.
    pub fn slots(&self) -> Result<Vec<u16>> {
        let fail = |e: io::Error| Error::Bpf { doing: "list the records of the book".into(), why: e.to_string() };
        let mut slots = BTreeSet::new();
        let (mut at, mut next) = (None, [0u8; 4]);
        // a walk begins anew when the entry it stands on is deleted, so it must not go on for ever
        for _ in 0..8 * ENTRIES {
            if !sys::next_key(self.0.as_fd(), at.as_ref().map(|k: &[u8; 4]| &k[..]), &mut next).map_err(fail)? {
                return Ok(slots.into_iter().collect());
            }
            let key = u32::from_ne_bytes(next);
            if key & 0xffff == 0 && key != 0 {
                slots.insert((key >> 16) as u16);
            }
            at = Some(next);
        }
        Err(fail(io::Error::other("it changes faster than it can be read")))
    }

    fn gather(&self, slot: u16) -> Result<Gathered> {
        let fail = |e: io::Error| Error::Bpf {
            doing: format!("read the record of slot {slot} from the book"),
            why: e.to_string(),
        };
        let Some(first) = self.chunk(first_key(slot)).map_err(fail)? else { return Ok(Gathered::None) };
        let head = Head::of(&first);
        let mut values = vec![first];
        for chunk in 1..u32::from(head.chunks).min(CHUNKS as u32) {
            match self.chunk(key(slot, head.generation, chunk)).map_err(fail)? {
                Some(value) => values.push(value),
                None => return Ok(Gathered::Torn(format!("the record is torn: chunk {chunk} is missing"))),
            }
        }
        let record = match join(&values) {
            Ok(record) => record,
            Err(why) => return Ok(Gathered::Torn(why)),
        };
        // the kernel may reuse an entry's memory while it is being copied: what is read twice alike was not
        for (chunk, value) in values.iter().enumerate().rev() {
            if self.chunk(key(slot, head.generation, chunk as u32)).map_err(fail)?.as_ref() != Some(value) {
                return Ok(Gathered::Torn("the record changes faster than it can be read".into()));
            }
        }
        Ok(Gathered::Record(record))
    }

    /// Deletes the chunks from `from` on that a generation left, the last one first: what a killed run leaves has no
    /// holes.
    fn clear(&self, slot: u16, generation: u32, from: u32) -> io::Result<()> {
        let mut past = from;
        while past < BANK && self.chunk(key(slot, generation, past))?.is_some() {
            past += 1;
        }
        (from..past).rev().try_for_each(|chunk| self.remove(key(slot, generation, chunk)))
    }

    fn chunk(&self, key: u32) -> io::Result<Option<Value>> {
        let mut value = [0; VALUE];
        match sys::lookup(self.0.as_fd(), &key.to_ne_bytes(), &mut value) {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn remove(&self, key: u32) -> io::Result<()> {
        match sys::delete(self.0.as_fd(), &key.to_ne_bytes()) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Has a map the shape of a book, and its name?
pub(super) fn is_book(info: &MapInfo) -> bool {
    info.kind == sys::MAP_TYPE_HASH
        && info.key_size == 4
        && info.value_size as usize == VALUE
        && info.max_entries == ENTRIES
        && info.name() == "book"
}

enum Gathered {
    None,
    Record(Vec<u8>),
    Torn(String),
}

impl Head {
    fn of(value: &Value) -> Self {
        Self {
            generation: u32::from_ne_bytes([value[0], value[1], value[2], value[3]]),
            chunks: u16::from_ne_bytes([value[4], value[5]]),
            length: u16::from_ne_bytes([value[6], value[7]]),
        }
    }
}

fn first_key(slot: u16) -> u32 {
    u32::from(slot) << 16
}

fn key(slot: u16, generation: u32, chunk: u32) -> u32 {
    first_key(slot) | if chunk == 0 { 0 } else { chunk + BANK * (generation & 1) }
}

/// The parts of a record, one a chunk; `None` when it is too long.
fn split(record: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = if record.is_empty() { vec![record] } else { record.chunks(PART).collect() };
    (parts.len() <= CHUNKS).then_some(parts)
}

fn encode(generation: u32, chunks: u16, part: &[u8]) -> Value {
    let mut value = [0; VALUE];
    value[0..4].copy_from_slice(&generation.to_ne_bytes());
    value[4..6].copy_from_slice(&chunks.to_ne_bytes());
    value[6..8].copy_from_slice(&(part.len() as u16).to_ne_bytes());
    value[HEAD..HEAD + part.len()].copy_from_slice(part);
    value
}

/// The record that the chunks make up, or why they make up none.
fn join(values: &[Value]) -> Result<Vec<u8>, String> {
    let Some(head) = values.first().map(Head::of) else { return Err("the record has no chunks".into()) };
    if usize::from(head.chunks) != values.len() {
        return Err(format!("the record is torn: {} chunks, not {}", values.len(), head.chunks));
    }
    let mut record = Vec::with_capacity(values.len() * PART);
    for (chunk, value) in values.iter().enumerate() {
        let own = Head::of(value);
        if (own.generation, own.chunks) != (head.generation, head.chunks) {
            return Err(format!("the record is torn: chunk {chunk} is of another generation"));
        }
        let part = value[HEAD..].get(..own.length.into());
        record.extend_from_slice(part.ok_or_else(|| format!("the record is damaged: the length of chunk {chunk}"))?);
    }
    Ok(record)
}

fn nanoseconds() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_nsec() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(generation: u32, record: &[u8]) -> Vec<Value> {
        let parts = split(record).unwrap();
        parts.iter().map(|part| encode(generation, parts.len() as u16, part)).collect()
    }

    #[test]
    fn what_is_split_is_joined() {
        for length in [0, 1, PART - 1, PART, PART + 1, CHUNKS * PART] {
            let record: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let values = chunks(7, &record);
            assert_eq!(values.len(), length.div_ceil(PART).max(1));
            assert_eq!(join(&values).unwrap(), record);
        }
        assert!(split(&vec![0; CHUNKS * PART + 1]).is_none());
    }

    #[test]
    fn a_mixture_is_torn() {
        let (mut old, new) = (chunks(1, &[1; 5000]), chunks(2, &[2; 5000]));
        old[2] = new[2];
        assert!(join(&old).unwrap_err().contains("torn"));
        assert!(join(&new[..2]).unwrap_err().contains("torn"));
    }

    #[test]
    fn layout_of_a_chunk() {
        let value = encode(0x0102_0304, 5, b"record");
        assert_eq!(value[0..4], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(value[4..6], 5u16.to_ne_bytes());
        assert_eq!(value[6..8], 6u16.to_ne_bytes());
        assert_eq!(&value[8..14], b"record");
    }

    #[test]
    fn generations_do_not_share_keys() {
        let keys = |generation| (1..=CHUNKS as u32).map(move |chunk| key(3, generation, chunk));
        assert!(keys(1).all(|k| k >> 16 == 3 && keys(2).all(|other| other != k)));
        assert_eq!(key(3, 1, 0), 3 << 16);
    }
}

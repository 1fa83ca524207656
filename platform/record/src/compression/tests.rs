//! Each codec against golden bytes of other implementations, and against bombs.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use proptest::{collection::vec, prelude::*};

use super::*;

const PACKED: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Codec, and what it made of one line of text, in hexadecimal.
const GOLDENS: &[(Compression, &str)] = &[
    (Compression::Gzip, "1f8b0800000000000203cbcdccc9292e294a4dcc55c88533b90096e9bedb16000000"),
    (
        Compression::Gzip,
        "1f8b0800000000000203cbcdccc9292e294a4dcc550000e727d7800b0000001f8b08000000000002 \
         03cbcdccc9292e294a4dcce5020031ee6c5b0b000000",
    ),
    (
        Compression::Lz4,
        "04224d186440a7160000806d696c6c73747265616d206d696c6c73747265616d0a00000000c28dd2 \
         b1",
    ),
    (Compression::Lz4, "04224d18604082160000806d696c6c73747265616d206d696c6c73747265616d0a00000000"),
    (Compression::Zstd, "28b52ffd0458950000606d696c6c73747265616d200a0100de8a170cf250d9"),
    (Compression::Zstd, "28b52ffd0068950000606d696c6c73747265616d200a0100de8a17"),
    (Compression::Snappy, "16286d696c6c73747265616d20190b000a"),
    (Compression::Snappy, "82534e415050590000000001000000010000001116286d696c6c73747265616d20190b000a"),
    (
        Compression::Snappy,
        "82534e415050590000000001000000010000000d0b286d696c6c73747265616d2082534e41505059 \
         0000000001000000010000000d0b286d696c6c73747265616d0a",
    ),
];

/// Counts what a thread allocates at most at a time: the bound on bombs is a bound on memory.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(allocated: usize, freed: usize) {
    NOW.set((NOW.get() + allocated).saturating_sub(freed));
    PEAK.set(PEAK.get().max(NOW.get()));
}

#[expect(unsafe_code, reason = "an allocator that counts can only be written so; it passes every call on unchanged")]
// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and tells how many bytes it held at most (zstd's C heap is not seen: its output buffer is).
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    NOW.set(0);
    PEAK.set(0);
    let result = work();
    (result, PEAK.get())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Made with Python's gzip (one member, two), the lz4 and zstd command lines (plain, other settings), and snappy's format description (bare,
/// framed, two framed streams one after the other).
#[test]
fn what_others_packed_is_unpacked() {
    let check = |compression, packed: &str| {
        assert_eq!(unpack(compression, &hex(packed), 100).unwrap(), b"millstream millstream\n", "{packed}");
    };
    GOLDENS.iter().for_each(|(compression, packed)| check(*compression, packed));
}

/// The legacy format (`lz4 -l`) has blocks of 8 MiB, whatever is in them.
#[test]
fn what_is_no_lz4_frame_is_refused_before_its_blocks_are_made() {
    let text = "6d696c6c73747265616d206d696c6c73747265616d0a";
    for packed in [format!("02214c18 18000000 f007 {text}"), "04224d".to_owned(), String::new()] {
        let (result, held) = peak(|| unpack(Compression::Lz4, &hex(&packed), 100));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("no LZ4 frame") && held < 10_000, "{packed}: {error}, {held} bytes held");
    }
}

#[test]
fn what_we_pack_begins_as_other_readers_expect() {
    let begins = |compression, start: &[u8]| assert!(pack(compression, b"abc").unwrap().starts_with(start));
    begins(Compression::Gzip, &[0x1f, 0x8b, 8]);
    begins(Compression::Snappy, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x05\x03\x08abc");
    begins(Compression::Lz4, &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    begins(Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]);
}

#[test]
fn the_bound_is_exact() {
    let section: Vec<u8> = (0..100_000u32).map(|i| ((i % 1000 * i) >> 7) as u8).collect();
    for compression in PACKED {
        let packed = pack(compression, &section).unwrap();
        assert_eq!(unpack(compression, &packed, section.len()).unwrap(), section, "{compression}");
        let limit = section.len() - 1;
        assert_eq!(unpack(compression, &packed, limit), Err(BatchError::UnpackedTooLarge { compression, limit }));
        assert_eq!(unpack(compression, &pack(compression, &[]).unwrap(), 0), Ok(vec![]), "{compression}");
    }
}

#[test]
fn a_bomb_is_refused_with_bounded_memory() {
    // Between two steps of a growing buffer.
    const LIMIT: usize = 300_000;
    let zeros = vec![0; 64 << 20];
    for compression in PACKED {
        let bomb = pack(compression, &zeros).unwrap();
        let (result, held) = peak(|| unpack(compression, &bomb, LIMIT));
        assert_eq!(result, Err(BatchError::UnpackedTooLarge { compression, limit: LIMIT }));
        assert!(held <= 3 * LIMIT, "{compression}: {} bytes packed, {held} held", bomb.len());
    }
}

#[test]
fn a_size_that_lies_allocates_nothing() {
    const LIMIT: usize = 1 << 30;
    // A snappy block that says 1 GiB less one, bare and framed.
    let bare = hex("ffffffff03 00 61");
    let framed = [&b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x07"[..], &bare].concat();
    let framed_past_end = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\x00".to_vec();
    for packed in [bare, framed, framed_past_end] {
        let (result, held) = peak(|| unpack(Compression::Snappy, &packed, LIMIT));
        assert!(matches!(result, Err(BatchError::Corrupt { .. })), "{result:?}");
        assert!(held < 1 << 16, "{held}");
    }
    // A zstd frame with a window of 2 GiB, whose content it says has 1 GiB, and no block to it.
    let (result, held) = peak(|| unpack(Compression::Zstd, &hex("28b52ffd c0 a8 0000004000000000"), LIMIT));
    assert!(matches!(result, Err(BatchError::Corrupt { .. })), "{result:?}");
    assert!(held < 1 << 20, "{held}");
    // An lz4 frame with blocks of 4 MiB, and no block: what the codec holds is bounded by the format.
    let (result, held) = peak(|| unpack(Compression::Lz4, &hex("04224d18 4070df ffffff7f"), LIMIT));
    assert!(matches!(result, Err(BatchError::Corrupt { .. })), "{result:?}");
    assert!(held <= 13 << 20, "{held}");
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(section in vec(any::<u8>(), 0..5000), repeat in 1usize..40) {
        let section = section.repeat(repeat);
        for compression in PACKED {
            let packed = pack(compression, &section).unwrap();
            prop_assert_eq!(&unpack(compression, &packed, section.len()).unwrap(), &section);
        }
    }

    #[test]
    fn damaged_bytes_give_an_error_or_bytes_within_the_bound(
        section in vec(any::<u8>(), 0..300),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
        cut_it: bool,
    ) {
        for compression in PACKED {
            let mut packed = pack(compression, &section.repeat(3)).unwrap();
            for (at, value) in &changes {
                let at = at.index(packed.len());
                packed[at] = *value;
            }
            if cut_it {
                packed.truncate(cut.index(packed.len()));
            }
            if let Ok(unpacked) = unpack(compression, &packed, 1000) {
                prop_assert!(unpacked.len() <= 1000);
            }
        }
    }

    #[test]
    fn any_bytes_may_be_tried(bytes in vec(any::<u8>(), 0..200)) {
        for compression in PACKED {
            let _ = unpack(compression, &bytes, 1000);
        }
    }
}
